"""The stages of a run: train, evaluate, sample. Each reads and writes the run's workdir."""

from pathlib import Path

import jax
import numpy as np

from experiments import measures, schema, workdir
from experiments.build import build
from experiments.tools import TRAIN, Tools
from vaediff import parallel, reporting, training
from vaediff.checkpoints import Checkpoints
from vaediff.errors import InputError
from vaediff.likelihoods import quantize
from vaediff.methods.base import Variables

NUM_PREVIEW_SAMPLES = 16
# Frames of an animated chain, and how long each is shown.
NUM_FRAMES, FRAME_MILLISECONDS = 60, 60


def run(config: dict, folder: Path, mode: str) -> None:
  """Runs `mode` of the experiment in its workdir; `train` goes on to evaluate and to sample."""
  devices = jax.devices()
  for section in ('training', 'evaluation', 'sampling'):
    name = f'{section}.batch_size'
    schema.check_divisible(name, config[section]['batch_size'], len(devices))
  workdir.check(folder, config, mode)
  experiment = build(config)
  measures.check(config, experiment.dataset)
  if config['sampling']['trajectory'] and experiment.method.trajectory is None:
    raise InputError(
      f'sampling.trajectory is True, and {config["method"]["name"]} has none: leave it False'
    )
  files = ('results.json', 'samples.png') if experiment.method.sample else ('results.json',)
  if mode == 'train' and workdir.is_finished(folder, config, files):
    print(f'{folder} is finished: see {" and ".join(files)} there')
    return
  tools = Tools(experiment, config, folder, devices)
  state = tools.initial_state()
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
      evaluate(tools, tools.final_variables(state), step)
    elif tools.method.sample is None:
      raise InputError(f'method.name is {config["method"]["name"]}, which generates nothing')
    else:
      sample(tools, tools.final_variables(state))


def train(
  tools: Tools, checkpoints: Checkpoints, state: training.TrainState, first_step: int
) -> None:
  """Trains the replicated state from first_step to the end, then evaluates and samples."""
  config, training_config = tools.config, tools.config['training']
  num_steps, batch_size = training_config['num_steps'], training_config['batch_size']
  dispatch = training.make_dispatch(
    tools.method,
    tools.experiment.optimizer,
    tools.experiment.observe,
    batch_size,
    training_config['ema_decay'],
    tools.devices,
  )
  dispatches = training.loop(
    dispatch,
    state,
    tools.key(TRAIN),
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
        variables = tools.final_variables(state)
        _report_metrics(tools, reporter, step, measures.scores(tools, variables))
        if tools.method.sample is not None:
          _report_samples(tools, reporter, step, tools.draw(variables, NUM_PREVIEW_SAMPLES))
        reporter.stop_clock()
      if is_saved:
        checkpoints.save(step, state)
    reporter.write_cost(num_steps)
    variables = tools.final_variables(state)
    _report_metrics(tools, reporter, num_steps, evaluate(tools, variables, num_steps))
    if tools.method.sample is not None:
      _report_samples(tools, reporter, num_steps, sample(tools, variables))


def evaluate(tools: Tools, variables: Variables, step: int) -> dict[str, dict]:
  """Evaluates the whole split; writes results.json, prints its metrics and returns them."""
  config, split, folder = tools.config, tools.experiment.dataset.evaluation, tools.folder
  metrics = measures.code_metrics(tools, variables) | measures.scores(tools, variables)
  cost = reporting.read_cost(folder) | {
    'num_params': sum(leaf[0].size for leaf in jax.tree.leaves(variables.params))
  }
  if config['evaluation'].get('time_terms'):
    table = measures.time_terms(tools, variables)
    reporting.write_json(folder / 'time_terms.json', table)
  if config['quality']['classifier'] and tools.method.sample is not None:
    measured, drift = measures.sample_quality(tools, variables)
    metrics |= measured
    cost['seconds_per_1000_samples'] = tools.sampling_seconds(variables)
    if drift is not None:
      reporting.write_json(folder / 'drift.json', drift)
  results = {
    'method': config['method']['name'],
    'dataset': config['data']['name'],
    'split': split.name,
    'step': step,
    'num_examples': len(split.x),
    'metrics': metrics,
    'protocol': tools.experiment.protocol | {'quality': config['quality']},
    'cost': cost,
    'provenance': workdir.provenance(config),
  }
  reporting.write_json(folder / 'results.json', results)
  for name, metric in metrics.items():
    print(f'{name:26} {metric["value"]:10.4f} +- {metric["stderr"]:.4f} {metric["unit"]}')
  return metrics


def sample(tools: Tools, variables: Variables) -> np.ndarray:
  """Draws samples; writes samples.npz and samples.png and returns them."""
  config, folder = tools.config['sampling'], tools.folder
  x = tools.draw(variables, config['num_samples'])
  _write_arrays(folder / 'samples.npz', samples=x)
  path = folder / 'samples.png'
  reporting.write_picture(path, reporting.grid(x, tools.experiment.num_levels))
  print(f'{len(x)} samples: {path}')
  if config['trajectory']:
    _write_chains(tools, variables)
  return x


def _write_chains(tools: Tools, variables: Variables) -> None:
  """Writes the chains behind the samples: trajectory.npz, whole, and trajectory.gif."""
  chains = tools.draw_chains(variables, tools.config['sampling']['num_samples'])
  _write_arrays(tools.folder / 'trajectory.npz', **chains)
  num_states = chains['x'].shape[1]
  shown = np.unique(np.linspace(0, num_states - 1, NUM_FRAMES).round().astype(int))
  frames = [
    reporting.grid(np.asarray(quantize(chains['x'][:, i], 256)), num_levels=256) for i in shown
  ]
  path = tools.folder / 'trajectory.gif'
  reporting.write_animation(path, frames, FRAME_MILLISECONDS)
  print(f'{len(frames)} of {num_states} states: {path}')


def _write_arrays(path: Path, **arrays: np.ndarray) -> None:
  with reporting.replacing(path) as temporary, temporary.open('wb') as file:
    np.savez_compressed(file, **arrays)


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


def _report_metrics(tools: Tools, reporter: reporting.Reporter, step: int, metrics) -> None:
  name = tools.experiment.dataset.evaluation.name
  reporter.metrics(step, name, {name: metric['value'] for name, metric in metrics.items()})


def _report_samples(tools: Tools, reporter: reporting.Reporter, step: int, x) -> None:
  pixels = reporting.grid(x[:NUM_PREVIEW_SAMPLES], tools.experiment.num_levels)
  reporter.picture(step, 'samples', pixels)
