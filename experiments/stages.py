"""The stages of a run: train, evaluate, sample. Each reads and writes the run's workdir."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments import schema, workdir
from experiments.build import Experiment, build
from vaediff import data, parallel, reporting, training
from vaediff.checkpoints import Checkpoints
from vaediff.errors import InputError
from vaediff.evaluation import likelihood, samples
from vaediff.evaluation.split import make_map
from vaediff.methods.base import Batch, Variables

# Streams of random numbers, folded into the key of the seed.
INIT, TRAIN, EVALUATE, SAMPLE, FIT = range(5)
NUM_PREVIEW_SAMPLES = 16


class Tools(NamedTuple):
  """What the stages share; each function in it is compiled at most once in a run.

  scores(variables, key, split): the bound's terms of each example, or where the method has no
    likelihood its scores, or the terms of its loss.
  statistics, sampler: None where the method has none.
  """

  experiment: Experiment
  config: dict
  folder: Path
  devices: Sequence[jax.Device]
  scores: Callable
  statistics: Callable | None
  sampler: Callable | None


def run(config: dict, folder: Path, mode: str) -> None:
  """Runs `mode` of the experiment in its workdir; `train` goes on to evaluate and to sample."""
  _enable_compilation_cache()
  devices = jax.devices()
  for section in ('training', 'evaluation', 'sampling'):
    name = f'{section}.batch_size'
    schema.check_divisible(name, config[section]['batch_size'], len(devices))
  workdir.check(folder, config, mode)
  experiment = build(config)
  files = ('results.json', 'samples.png') if experiment.method.sample else ('results.json',)
  if mode == 'train' and workdir.is_finished(folder, config, files):
    print(f'{folder} is finished: see {" and ".join(files)} there')
    return
  tools = _make_tools(experiment, config, folder, devices)
  state = _initial_state(tools)
  # From here on the folder is written to; whatever is wrong with the config has shown before.
  workdir.claim(folder, config)
  with Checkpoints(folder / 'checkpoints') as checkpoints:
    step = checkpoints.latest_step() or 0
    if step == 0 and mode != 'train':
      raise InputError(f'--workdir={folder} holds no checkpoint to {mode}; train one there first')
    state = parallel.replicate(checkpoints.restore(step, state) if step else state, devices)
    if mode == 'train':
      train(tools, checkpoints, state, step)
    elif mode == 'evaluate':
      evaluate(tools, final_variables(tools, state), step)
    elif tools.sampler is None:
      raise InputError(f'method.name is {config["method"]["name"]}, which generates nothing')
    else:
      sample(tools, final_variables(tools, state))


def train(
  tools: Tools, checkpoints: Checkpoints, state: training.TrainState, first_step: int
) -> None:
  """Trains the replicated state from first_step to the end, then evaluates and samples."""
  config, training_config = tools.config, tools.config['training']
  num_steps, batch_size = training_config['num_steps'], training_config['batch_size']
  dispatch = training.make_dispatch(
    tools.experiment.method,
    tools.experiment.optimizer,
    tools.experiment.observe,
    batch_size,
    training_config['ema_decay'],
    tools.devices,
  )
  dispatches = training.loop(
    dispatch,
    state,
    _key(config, TRAIN),
    tools.experiment.dataset.train,
    first_step=first_step,
    num_steps=num_steps,
    steps_per_dispatch=training_config['steps_per_dispatch'],
    batch_size=batch_size,
    seed=config['seed'],
    devices=tools.devices,
  )
  with reporting.Reporter(tools.folder, first_step, num_steps, batch_size) as reporter:
    unread = []
    for step, state, metrics in dispatches:
      # Metrics are read one dispatch late, while the device is busy with the next one.
      unread.append((step, metrics))
      is_last = step == num_steps
      is_evaluated = config['evaluation']['every'] and step % config['evaluation']['every'] == 0
      is_saved = step % training_config['checkpoint_every'] == 0 or is_last
      while len(unread) > (not (is_evaluated or is_saved)):
        _report_dispatch(reporter, *unread.pop(0))
      if is_evaluated and not is_last:
        variables = final_variables(tools, state)
        _report_metrics(tools, reporter, step, _scores(tools, variables))
        if tools.sampler is not None:
          _report_samples(tools, reporter, step, _draw(tools, variables, NUM_PREVIEW_SAMPLES))
        reporter.restart_clock()
      if is_saved:
        checkpoints.save(step, state)
    variables = final_variables(tools, state)
    _report_metrics(tools, reporter, num_steps, evaluate(tools, variables, num_steps))
    if tools.sampler is not None:
      _report_samples(tools, reporter, num_steps, sample(tools, variables))


def final_variables(tools: Tools, state: training.TrainState) -> Variables:
  """The variables to evaluate and to sample with: averaged, and fitted where there is a fit."""
  variables = training.averaged(state)
  if tools.statistics is None:
    return variables
  split, num = tools.experiment.dataset.train, tools.config['fit']['num_examples']
  if 0 < num < len(split.x):
    # Spread over the split, which may be sorted.
    index = np.arange(num) * len(split.x) // num
    split = data.Split(split.name, split.x[index], split.label[index])
  statistics = tools.statistics(variables, _key(tools.config, FIT), split)
  fitted = tools.experiment.method.fit(statistics)
  return variables._replace(fitted=parallel.replicate(fitted, tools.devices))


def evaluate(tools: Tools, variables, step: int) -> dict[str, dict]:
  """Evaluates the whole split; writes results.json, prints its metrics and returns them."""
  config, split = tools.config, tools.experiment.dataset.evaluation
  metrics = _scores(tools, variables)
  results = {
    'method': config['method']['name'],
    'dataset': config['data']['name'],
    'split': split.name,
    'step': step,
    'num_examples': len(split.x),
    'metrics': metrics,
    'protocol': tools.experiment.protocol,
    'provenance': workdir.provenance(config),
  }
  reporting.write_json(tools.folder / 'results.json', results)
  for name, metric in metrics.items():
    print(f'{name:16} {metric["value"]:10.4f} +- {metric["stderr"]:.4f} {metric["unit"]}')
  return metrics


def sample(tools: Tools, variables) -> np.ndarray:
  """Draws samples; writes samples.npz and samples.png and returns them."""
  x = _draw(tools, variables, tools.config['sampling']['num_samples'])
  with reporting.replacing(tools.folder / 'samples.npz') as path, path.open('wb') as file:
    np.savez_compressed(file, samples=x)
  path = tools.folder / 'samples.png'
  reporting.write_picture(path, reporting.grid(x, tools.experiment.num_levels))
  print(f'{len(x)} samples: {path}')
  return x


def _make_tools(
  experiment: Experiment, config: dict, folder: Path, devices: Sequence[jax.Device]
) -> Tools:
  method = experiment.method

  def over_split(f: Callable) -> Callable:
    return make_map(f, experiment.observe, config['evaluation']['batch_size'], devices)

  def test_loss(variables, keys, batch: Batch):
    return method.loss(variables, keys, batch, config['training']['num_steps'])

  return Tools(
    experiment,
    config,
    folder,
    devices,
    scores=over_split(method.log_likelihood_bound or method.scores or test_loss),
    statistics=over_split(method.statistics) if method.fit else None,
    sampler=method.sample
    and samples.make_sampler(method.sample, config['sampling']['batch_size'], devices),
  )


def _initial_state(tools: Tools) -> training.TrainState:
  train_split = tools.experiment.dataset.train
  batch = Batch(train_split.x[:1], train_split.label[:1], np.zeros(1, np.int32))
  key = _key(tools.config, INIT)
  return training.init(key, tools.experiment.method, tools.experiment.optimizer, batch)


def _report_dispatch(reporter: reporting.Reporter, step: int, metrics) -> None:
  """One line for the steps of a dispatch: the mean of each metric over them.

  Raises FloatingPointError where a metric is not finite.
  """
  per_step = parallel.unreplicate(metrics)
  for name, values in per_step.items():
    if not np.all(np.isfinite(values)):
      first = step - len(values) + 1 + int(np.argmin(np.isfinite(values)))
      raise FloatingPointError(f'{name} is {values[~np.isfinite(values)][0]} at step {first}')
  means = {name: float(np.mean(values, dtype=np.float64)) for name, values in per_step.items()}
  reporter.metrics(step, 'train', means)
  reporter.progress(step, means['loss'])


def _scores(tools: Tools, variables) -> dict[str, dict]:
  """The bound, or the loss, on the whole evaluation split: {name: {'value', 'stderr', 'unit'}}."""
  method, split = tools.experiment.method, tools.experiment.dataset.evaluation
  terms = tools.scores(variables, _key(tools.config, EVALUATE), split)
  if method.log_likelihood_bound is not None:
    return likelihood.summarize_bound(terms, split.x[0].size)
  return likelihood.summarize(terms, method.units)


def _draw(tools: Tools, variables, num: int) -> np.ndarray:
  """`num` samples, of the classes in turn where the method knows them."""
  label = np.arange(num, dtype=np.int32) % tools.experiment.dataset.num_classes
  return tools.sampler(variables, _key(tools.config, SAMPLE), label)


def _report_metrics(tools: Tools, reporter: reporting.Reporter, step: int, metrics) -> None:
  name = tools.experiment.dataset.evaluation.name
  reporter.metrics(step, name, {name: metric['value'] for name, metric in metrics.items()})


def _report_samples(tools: Tools, reporter: reporting.Reporter, step: int, x) -> None:
  pixels = reporting.grid(x[:NUM_PREVIEW_SAMPLES], tools.experiment.num_levels)
  reporter.picture(step, 'samples', pixels)


def _key(config: dict, stream: int) -> jax.Array:
  return jax.random.fold_in(jax.random.key(config['seed']), stream)


def _enable_compilation_cache() -> None:
  """Keeps compiled programs in the user's cache folder, where the environment names no other."""
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    jax.config.update('jax_compilation_cache_dir', str(cache / 'vaediff' / 'jax'))
