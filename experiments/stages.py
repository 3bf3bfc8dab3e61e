"""The stages of a run: train, evaluate, sample. Each reads and writes the run's workdir."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments import schema, workdir
from experiments.build import Experiment, build
from vaediff import parallel, reporting, training
from vaediff.checkpoints import Checkpoints
from vaediff.errors import InputError
from vaediff.evaluation import likelihood, samples
from vaediff.methods.base import Batch

# Streams of random numbers, folded into the key of the seed.
INIT, TRAIN, EVALUATE, SAMPLE = range(4)
NUM_PREVIEW_SAMPLES = 16


class Tools(NamedTuple):
  """What the stages share; each function in it is compiled at most once in a run."""

  experiment: Experiment
  config: dict
  folder: Path
  devices: Sequence[jax.Device]
  bound: Callable | None
  sampler: Callable


def run(config: dict, folder: Path, mode: str) -> None:
  """Runs `mode` of the experiment in its workdir; `train` goes on to evaluate and to sample."""
  _enable_compilation_cache()
  devices = jax.devices()
  for section in ('training', 'evaluation', 'sampling'):
    name = f'{section}.batch_size'
    schema.check_divisible(name, config[section]['batch_size'], len(devices))
  experiment = build(config)
  workdir.claim(folder, config, mode)
  if mode == 'train' and _is_finished(config, folder):
    print(f'{folder} is finished: see results.json and samples.png there')
    return
  tools = _make_tools(experiment, config, folder, devices)
  with Checkpoints(folder / 'checkpoints') as checkpoints:
    state, step = _newest_state(tools, checkpoints)
    if mode == 'train':
      state = train(tools, checkpoints, state, step)
    elif step == 0:
      raise InputError(f'--workdir={folder} holds no checkpoint to {mode}; train one there first')
  variables = parallel.replicate(training.averaged(parallel.unreplicate(state)), devices)
  step = int(parallel.unreplicate(state.step))
  if mode in ('train', 'evaluate') and tools.bound is not None:
    evaluate(tools, variables, step)
  if mode in ('train', 'sample'):
    sample(tools, variables)


def train(
  tools: Tools, checkpoints: Checkpoints, state: training.TrainState, first_step: int
) -> training.TrainState:
  """Trains from first_step to the end; returns the replicated state."""
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
      while len(unread) > (not (is_last or is_evaluated or is_saved)):
        _report_dispatch(reporter, *unread.pop(0))
      if is_evaluated and not is_last:
        _report_evaluation(tools, reporter, training.averaged(state), step)
        reporter.restart_clock()
      if is_saved:
        checkpoints.save(step, state)
  return state


def evaluate(tools: Tools, variables, step: int) -> None:
  """Evaluates the whole split; writes results.json and prints its metrics."""
  config, split = tools.config, tools.experiment.dataset.evaluation
  terms = tools.bound(variables, _key(config, EVALUATE), split)
  metrics = likelihood.summarize(terms, split.x[0].size)
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


def sample(tools: Tools, variables) -> None:
  """Draws samples; writes samples.npz and samples.png."""
  x = tools.sampler(variables, _key(tools.config, SAMPLE), _labels(tools, None))
  with reporting.replacing(tools.folder / 'samples.npz') as path, path.open('wb') as file:
    np.savez_compressed(file, samples=x)
  path = tools.folder / 'samples.png'
  reporting.write_picture(path, reporting.grid(x, tools.experiment.num_levels))
  print(f'{len(x)} samples: {path}')


def _make_tools(
  experiment: Experiment, config: dict, folder: Path, devices: Sequence[jax.Device]
) -> Tools:
  method = experiment.method
  bound = None
  if method.log_likelihood_bound is not None:
    bound = likelihood.make_bound(
      method, experiment.observe, config['evaluation']['batch_size'], devices
    )
  sampler = samples.make_sampler(method, config['sampling']['batch_size'], devices)
  return Tools(experiment, config, folder, devices, bound, sampler)


def _newest_state(tools: Tools, checkpoints: Checkpoints) -> tuple[training.TrainState, int]:
  """The replicated state to go on from, and how many steps it has done."""
  train_split = tools.experiment.dataset.train
  batch = Batch(train_split.x[:1], train_split.label[:1], np.zeros(1, np.int32))
  key = _key(tools.config, INIT)
  state = training.init(key, tools.experiment.method, tools.experiment.optimizer, batch)
  step = checkpoints.latest_step() or 0
  if step:
    state = checkpoints.restore(step, state)
  return parallel.replicate(state, tools.devices), step


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


def _report_evaluation(tools: Tools, reporter: reporting.Reporter, variables, step: int) -> None:
  """The bound on the whole evaluation split, and a small grid of samples, in mid-training."""
  if tools.bound is not None:
    split = tools.experiment.dataset.evaluation
    terms = tools.bound(variables, _key(tools.config, EVALUATE), split)
    metrics = likelihood.summarize(terms, split.x[0].size)
    reporter.metrics(step, split.name, {name: metric['value'] for name, metric in metrics.items()})
  x = tools.sampler(variables, _key(tools.config, SAMPLE), _labels(tools, NUM_PREVIEW_SAMPLES))
  reporter.picture(step, 'samples', reporting.grid(x, tools.experiment.num_levels))


def _labels(tools: Tools, num: int | None) -> np.ndarray:
  return np.full(num or tools.config['sampling']['num_samples'], -1, np.int32)


def _key(config: dict, stream: int) -> jax.Array:
  return jax.random.fold_in(jax.random.key(config['seed']), stream)


def _is_finished(config: dict, folder: Path) -> bool:
  """Whether the results are of the last step and the samples, written last, are there."""
  results = folder / 'results.json'
  if not (folder / 'samples.png').exists() or not results.exists():
    return False
  return json.loads(results.read_text())['step'] == config['training']['num_steps']


def _enable_compilation_cache() -> None:
  """Keeps compiled programs in the user's cache folder, where the environment names no other."""
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    jax.config.update('jax_compilation_cache_dir', str(cache / 'vaediff' / 'jax'))
