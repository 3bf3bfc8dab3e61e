"""From a sweep file to its trials: the axes, and what each trial's config is.

A sweep file has a function get_sweep() that returns a dict of

  config: the config that all trials share, as a ConfigDict.
  grid: {field: values}; every combination of them.
  zip: {field: values}; all of one length, the first ones together, the second ones, and so on.
  random: {field: ('uniform' | 'log_uniform', low, high)}; num_random draws of all of them together.
  num_random, random_seed: how many, and which.
  search: 0, or how many draws at a time are chosen by Optuna from what the draws before came to.
  seeds: the seeds with which each setting is trained.
  collect: dotted names in results.json, as metrics.nll_bound.value; the first one sorts.
  best: 'min' or 'max', which of it comes first.
  resources: what a trial gets, see RESOURCES; --resources overrides them.

Only config and collect are required. A setting is one of the grid with one of the zip with one of
the draws; a trial is a setting with a seed. Fields are the config's own, by their full names, or
whole sections of it, whose values are dicts.
"""

import copy
import hashlib
import importlib.util
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from experiments import schema, workdir
from vaediff.errors import InputError

FIELDS = {
  'config': None,
  'grid': {},
  'zip': {},
  'random': {},
  'num_random': 1,
  'random_seed': 0,
  'search': 0,
  'seeds': (),
  'collect': None,
  'best': 'min',
  'resources': {},
}
# What a trial gets. cpus: threads of each of its processes, on which the last bits of its numbers
# depend. gpus, tpus: devices of each process. hosts: processes, each on a host of its own.
# topology, accelerator: of TPU slices, as Ray names them: '4x4', 'TPU-V6E'.
RESOURCES = {'cpus': 1, 'gpus': 0, 'tpus': 0, 'hosts': 1, 'topology': '', 'accelerator': ''}
DISTRIBUTIONS = ('uniform', 'log_uniform')
# The name of a trial is the beginning of its config's hash.
_NAME_LENGTH = 16


class Sweep(NamedTuple):
  """A sweep file, checked, with defaults for the fields that it leaves out."""

  config: dict
  grid: dict[str, tuple]
  zip: dict[str, tuple]
  random: dict[str, tuple]
  num_random: int
  random_seed: int
  search: int
  seeds: tuple[int, ...]
  collect: tuple[str, ...]
  best: str
  resources: dict[str, Any]


class Trial(NamedTuple):
  """One run of a sweep.

  name: the beginning of the hash of its config, which names its workdir.
  setting: {field: value} of what differs from the sweep's config, without the seed.
  config: the resolved config.
  """

  name: str
  setting: dict[str, Any]
  config: dict


def load(path: str) -> Sweep:
  """The sweep of a file. Raises InputError where it is not in order."""
  try:
    spec = importlib.util.spec_from_file_location('sweep', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    fields = module.get_sweep()
  except InputError:
    raise
  except (Exception, SystemExit) as error:  # a sweep file is code, which may raise anything
    raise InputError(
      f'--sweep={path} gives no sweep ({type(error).__name__}: {error}); it is a file with a '
      'function get_sweep(), as configs/sweeps/beta.py'
    ) from error
  return check(fields)


def check(fields: Any) -> Sweep:
  """The sweep that get_sweep() has returned. Raises InputError for what it may not contain."""
  if not isinstance(fields, Mapping):
    raise InputError(f'get_sweep() returns {fields!r:.50}; it is a dict')
  for name in fields:
    if name not in FIELDS:
      nearest = schema.nearest_name(name, FIELDS)
      raise InputError(f'{name} is not a field of a sweep{nearest}')
  for name, default in FIELDS.items():
    if default is None and name not in fields:
      raise InputError(f'{name} is missing from the sweep')
  fields = FIELDS | dict(fields)
  if not isinstance(fields['config'], ConfigDict):
    raise InputError(f'config is {fields["config"]!r:.50}; it is a ConfigDict')
  fields['config'] = fields['config'].to_dict()
  schema.check(fields['config'])
  for name in ('grid', 'zip', 'random', 'resources'):
    if not isinstance(fields[name], Mapping):
      raise InputError(f'{name} is {fields[name]!r}; it is a dict')
  for name in ('grid', 'zip'):
    fields[name] = {field: _values(name, field, v) for field, v in fields[name].items()}
  lengths = {field: len(values) for field, values in fields['zip'].items()}
  if len(set(lengths.values())) > 1:
    raise InputError(f'zip has axes of different lengths, {lengths}; they go together one by one')
  for field, distribution in fields['random'].items():
    _check_distribution(field, distribution)
  for name, least in (('num_random', 1), ('random_seed', 0), ('search', 0)):
    _check_field(name, fields[name], schema.integer(least))
  if fields['num_random'] > 1 and not fields['random']:
    raise InputError(f'num_random is {fields["num_random"]}, and random is empty')
  if fields['search'] and (not fields['random'] or fields['grid'] or fields['zip']):
    raise InputError(f'search is {fields["search"]}; it takes axes in random, and none elsewhere')
  fields['seeds'] = _values('the sweep', 'seeds', fields['seeds'] or (fields['config']['seed'],))
  axes = [*fields['grid'], *fields['zip'], *fields['random']]
  for field in axes:
    if axes.count(field) > 1:
      raise InputError(f'{field} is on two axes; leave it on one')
    if field == 'seed':
      raise InputError('seed is an axis; the seeds of a sweep are its field seeds')
    _place(fields['config'], field)
  fields['collect'] = _values('the sweep', 'collect', fields['collect'])
  for name in fields['collect']:
    _check_field('collect', name, schema.STRING)
  _check_field('best', fields['best'], schema.one_of('min', 'max'))
  fields['resources'] = check_resources(fields['resources'])
  return Sweep(**fields)


def parse_resources(texts: Sequence[str], resources: Mapping) -> dict[str, Any]:
  """The resources, those named in texts NAME=VALUE overridden. Raises InputError as below."""
  given = dict(text.partition('=')[::2] for text in texts)
  given = {name: int(text) if text.isdecimal() else text for name, text in given.items()}
  return check_resources(resources | given)


def check_resources(given: Mapping) -> dict[str, Any]:
  """The resources of a trial, with defaults. Raises InputError where they are not in order."""
  for name in given:
    if name not in RESOURCES:
      nearest = schema.nearest_name(name, RESOURCES)
      raise InputError(f'resources.{name} is not a resource of a trial{nearest}')
  resources = RESOURCES | dict(given)
  for name, least in (('cpus', 1), ('gpus', 0), ('tpus', 0), ('hosts', 1)):
    _check_field(f'resources.{name}', resources[name], schema.integer(least))
  for name in ('topology', 'accelerator'):
    _check_field(f'resources.{name}', resources[name], schema.STRING)
  if resources['gpus'] and resources['tpus']:
    raise InputError('resources asks for gpus and for tpus; a trial has one kind')
  return resources


def expand(sweep: Sweep) -> list[Trial]:
  """The trials of a sweep. Raises InputError for a config that is not in order, or comes twice."""
  trials = {}
  for setting in settings(sweep):
    for seed in sweep.seeds:
      trial = make(sweep, setting, seed)
      if trial.name in trials:
        raise InputError(f'{in_words(setting)} with seed {seed} is a trial twice; take one away')
      trials[trial.name] = trial
  return list(trials.values())


def make(sweep: Sweep, setting: dict[str, Any], seed: int) -> Trial:
  """The trial of a setting and a seed. Raises InputError where its config is not in order."""
  config = copy.deepcopy(sweep.config) | {'seed': seed}
  resolved = {}
  for field, value in setting.items():
    section, name = _place(config, field)
    section[name] = resolved[field] = _like(section[name], value)
  try:
    schema.check(config)
  except InputError as error:
    raise InputError(f'the trial {in_words(setting)} with seed {seed}: {error}') from error
  return Trial(workdir.config_hash(config)[:_NAME_LENGTH], resolved, config)


def settings(sweep: Sweep) -> Iterator[dict[str, Any]]:
  """What differs from the sweep's config, setting by setting."""
  grid = [dict(zip(sweep.grid, row)) for row in itertools.product(*sweep.grid.values())]
  rows = [dict(zip(sweep.zip, row)) for row in zip(*sweep.zip.values())] or [{}]
  draws = [draw(sweep, i) for i in range(sweep.num_random)]
  for parts in itertools.product(grid, rows, draws):
    yield {field: value for part in parts for field, value in part.items()}


def draw(sweep: Sweep, i: int) -> dict[str, float]:
  """The i-th random draw: a function of random_seed, i, and the field's name and range alone."""
  drawn = {}
  for field, (distribution, low, high) in sweep.random.items():
    stream = int.from_bytes(hashlib.sha256(field.encode()).digest()[:8])
    # NumPy guarantees the raw numbers of a bit generator across its versions.
    philox = np.random.Philox(key=np.array([sweep.random_seed, stream], np.uint64))
    fraction = float(philox.random_raw(i + 1)[i] / 2.0**64)
    if distribution == 'log_uniform':
      drawn[field] = math.exp(math.log(low) + fraction * math.log(high / low))
    else:
      drawn[field] = low + fraction * (high - low)
  return drawn


def in_words(setting: Mapping[str, Any]) -> str:
  """The setting as `field = value, ...`."""
  return ', '.join(f'{k} = {value_in_words(v)}' for k, v in setting.items()) or 'as it is'


def value_in_words(value: Any) -> str:
  """Floats with four significant digits."""
  return f'{value:.4g}' if isinstance(value, float) else str(value)


def _values(axis: str, field: str, values: Any) -> tuple:
  if not isinstance(values, tuple | list | range) or not values:
    raise InputError(f'{field} of {axis} is {values!r}; it is a tuple of one value or more')
  return tuple(values)


def _check_field(name: str, value: Any, field: schema.Field) -> None:
  if not field.holds(value):
    raise InputError(f'{name} is {value!r}; it is {field.allowed}')


def _check_distribution(field: str, distribution: Any) -> None:
  allowed = f'(one of {", ".join(DISTRIBUTIONS)}, low, high) with low < high'
  if not isinstance(distribution, tuple | list) or len(distribution) != 3:
    raise InputError(f'{field} of random is {distribution!r}; it is {allowed}')
  name, low, high = distribution
  is_range = all(schema.number().holds(v) for v in (low, high)) and low < high
  if name not in DISTRIBUTIONS or not is_range:
    raise InputError(f'{field} of random is {distribution!r}; it is {allowed}')
  if name == 'log_uniform' and low <= 0:
    raise InputError(f'{field} of random is {distribution!r}; log_uniform takes low > 0')


def _place(config: dict, field: str) -> tuple[dict, str]:
  """The section that a field is in, and its name there. Raises InputError for an unknown field."""
  *sections, last = field.split('.')
  section = config
  for name in sections:
    section = section.get(name) if isinstance(section, dict) else None
  if not isinstance(section, dict) or last not in section:
    raise InputError(
      f'{field} is not a field of the config{schema.nearest_name(field, schema.flatten(config))}'
    )
  return section, last


def _like(present: Any, value: Any) -> Any:
  """The value, as a float where the one in its place is: 1 and 1.0 are the same trial."""
  is_whole = isinstance(present, float) and isinstance(value, int) and not isinstance(value, bool)
  return float(value) if is_whole else value
