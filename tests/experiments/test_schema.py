"""Every shipped config passes the schema, and whatever does not pass raises InputError alone."""

import contextlib
import importlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import burda, compare, paper, variants
from experiments import schema
from vaediff.errors import InputError

CONFIGS = sorted(
  path.stem
  for path in (Path(__file__).parents[2] / 'configs').glob('*.py')
  if path.stem not in ('__init__', 'common')
)
# Files that hold a family of configs, by the names of these.
FAMILIES = {
  'burda': [f'{objective}_{num}' for objective in burda.OBJECTIVES for num in burda.DRAWS],
  'compare': [f'{dataset}_{system}' for dataset in compare.STEPS for system in compare.SYSTEMS],
  'variants': list(variants.VARIANTS),
  'paper': [f'{dataset}_{run}' for dataset in paper.DATASETS for run in paper.RUNS],
}
VARIANTS = [(name, variant) for name in CONFIGS for variant in FAMILIES.get(name, [''])]


def load(name: str, variant: str = '') -> dict:
  return importlib.import_module(f'configs.{name}').get_config(variant).to_dict()


@pytest.mark.parametrize(('name', 'variant'), VARIANTS)
def test_shipped_configs_pass(name, variant):
  schema.check(load(name, variant))
  schema.check(load(name, f'{variant},tiny' if variant else 'tiny'))


@pytest.mark.parametrize('name', FAMILIES['paper'])
def test_quick_configs_of_the_paper_pass(name):
  schema.check(load('paper', f'{name},quick'))


def test_the_systems_are_compared_at_the_same_settings():
  """What does not belong to one system alone is equal for all four but the number of steps."""
  for dataset in compare.STEPS:
    configs = [load('compare', f'{dataset}_{system}') for system in compare.SYSTEMS]
    for section in ('data', 'seed', 'compute_dtype', 'sampling', 'quality', 'fit'):
      assert all(config[section] == configs[0][section] for config in configs)
    for system, config in zip(compare.SYSTEMS, configs, strict=True):
      assert config['training'].pop('num_steps') == compare.STEPS[dataset][system]
      assert config['training'] == configs[0]['training']
    plain, chain, vae, diffusion = configs
    assert (plain['encoder'], plain['decoder']) == (vae['encoder'], vae['decoder'])
    assert (chain['denoiser'], chain['schedule']) == (diffusion['denoiser'], diffusion['schedule'])


@pytest.mark.parametrize(
  'variant', ['', 'tiny', 'digits', 'cifar_vae', 'digits_gan', 'digits_vae,x']
)
def test_an_unknown_comparison_is_refused(variant):
  with pytest.raises(InputError, match='unknown'):
    load('compare', variant)


@pytest.mark.parametrize('name', CONFIGS)
def test_docstrings_give_command_runtime_and_expected_numbers(name):
  text = importlib.import_module(f'configs.{name}').__doc__
  assert f'--config=configs/{name}.py' in text
  assert 'minute' in text or 'seconds' in text
  assert '+-' in text or name in FAMILIES or 'Not run yet' in text


@pytest.mark.parametrize(('name', 'variant'), VARIANTS)
def test_a_missing_or_extra_field_is_named(name, variant):
  for field in schema.flatten(load(name, variant)):
    config = load(name, variant)
    section, last = section_of(config, field)
    del section[last]
    with pytest.raises(InputError, match=field.split('.')[0]):
      schema.check(config)
    section[last + 'x'] = 1
    with pytest.raises(InputError):
      schema.check(config)


FREE_STRINGS = ('data.name', 'data.data_dir', 'quality.classifier', 'quality.inception')
# Of none of the types that fields have; sections are mappings.
NO_TYPES = (None, [], {}, b'8', 1j, object())
# By the type of a shipped value: what no field of that type takes.
WRONG = {
  bool: ('True', 0, 1, 1.0),
  int: ('8', True, 8.5, (8,), -1, 2**32, 10**400, float('nan')),
  float: ('0.1', True, (0.1,), float('nan'), float('inf'), -float('inf'), 1e39, -1e39, 10**400),
  str: (0, True, 0.5, ('mlp',)),
  tuple: ('(8,)', 8, [8], (0,), (-1,), (1.5,), ('8',), (True,), (8, None), (2**31,), ((8,),)),
}
SIGNED = ('schedule.first', 'schedule.last')


def section_of(config: dict, field: str) -> tuple[dict, str]:
  """The section that a field stands in, and its name there."""
  *sections, last = field.split('.')
  for part in sections:
    config = config[part]
  return config, last


def message(config) -> str:
  """The one line with which the schema refuses a config."""
  with pytest.raises(InputError) as error:
    schema.check(config)
  line = str(error.value)
  assert '\n' not in line
  return line


@pytest.mark.parametrize(('name', 'variant'), VARIANTS)
def test_a_wrong_value_of_any_field_is_named(name, variant):
  config = load(name, variant)
  for field, value in schema.flatten(config).items():
    section, last = section_of(config, field)
    wrong = [*NO_TYPES, *WRONG[type(value)]]
    if isinstance(value, str) and field not in FREE_STRINGS:
      wrong += ['', 'none of them', value + ' ', value.upper()]
    if isinstance(value, float) and field not in SIGNED:
      wrong.append(-1.0)
    for other in wrong:
      section[last] = other
      assert message(config).startswith(f'{field} is '), other
    section[last] = value
  schema.check(config)


@pytest.mark.parametrize(('name', 'variant'), VARIANTS)
def test_a_misspelt_field_is_named_and_the_right_one_is_meant(name, variant):
  config = load(name, variant)
  for field in schema.flatten(config):
    section, last = section_of(config, field)
    value = section.pop(last)
    section[last + last[-1]] = value
    line = message(config)
    if line.startswith(f'{field}{last[-1]} is not a field of '):
      assert line.endswith(f'; did you mean {field}?')
    else:  # the other fields depend on it
      assert last == 'name'
      assert line.startswith(f'{field} is None; it is one of ')
    del section[last + last[-1]]
    section[last] = value
  for section in [key for key, value in config.items() if isinstance(value, dict)]:
    value = config.pop(section)
    config[section + 's'] = value
    if section != 'method':
      line = f'{section}s is not a field of this config; did you mean {section}?'
      assert message(config) == line
    del config[section + 's']
    config[section] = value


@pytest.mark.parametrize(('name', 'variant'), VARIANTS)
def test_what_is_no_section_is_named(name, variant):
  config = load(name, variant)
  for section in [key for key, value in config.items() if isinstance(value, dict)]:
    kept = config[section]
    for other in (None, 3, 'x', (), []):
      config[section] = other
      assert message(config).startswith((f'{section} is ', f'{section}.name is '))
    config[section] = kept


@pytest.mark.parametrize('config', [None, 3, 'x', (), [], {}])
def test_what_is_no_config_is_refused(config):
  message(config)


VALUES = st.one_of(
  st.none(),
  st.booleans(),
  st.integers(),
  st.floats(),
  st.text(max_size=5),
  st.tuples(st.integers(), st.integers()),
  st.lists(st.integers(), max_size=2),
  st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(VARIANTS), st.integers(0, 10**6), VALUES)
def test_no_value_raises_anything_but_an_input_error(shipped, place, value):
  config = load(*shipped)
  fields = list(schema.flatten(config))
  section, last = section_of(config, fields[place % len(fields)])
  section[last] = value
  with contextlib.suppress(InputError):
    schema.check(config)
