"""The stages of a run: train, evaluate, sample. Each reads and writes the run's workdir."""

import contextlib
import tempfile
from pathlib import Path

import jax
import numpy as np

from experiments import measures, preemption, replay, schema, storage, verification, workdir
from experiments.build import build
from experiments.tools import TRAIN, Tools
from vaediff import parallel, reporting, training
from vaediff.checkpoints import Checkpoints
from vaediff.errors import InputError, RunError
from vaediff.likelihoods import quantize
from vaediff.methods.base import Variables

NUM_PREVIEW_SAMPLES = 16
# Frames of an animated chain, and how long each is shown.
NUM_FRAMES, FRAME_MILLISECONDS = 60, 60


def run(config: dict, folder: Path, mode: str) -> None:
  """Runs `mode` of the experiment in its workdir; `train` goes on to evaluate and to sample."""
  parallel.check_equal({'mode': mode} | workdir.identity(config))
  devices = parallel.all_devices()
  for section in ('training', 'evaluation', 'sampling'):
    name = f'{section}.batch_size'
    schema.check_divisible(name, config[section]['batch_size'], len(devices))
  parallel.on_primary(lambda: workdir.check(folder, config, mode))
  if mode == 'verify':
    # By the settings that the numbers on record were made with.
    recorded = workdir.read_results(folder)
    data_dir = config['data']['data_dir']
    config = recorded['config']
    config['data']['data_dir'] = data_dir
  experiment = build(config)
  measures.check(config, experiment.dataset)
  if config['sampling']['trajectory'] and experiment.method.trajectory is None:
    raise InputError(
      f'sampling.trajectory is True, and {config["method"]["name"]} has none: leave it False'
    )
  if mode == 'sample' and experiment.method.sample is None:
    raise InputError(f'method.name is {config["method"]["name"]}, which generates nothing')
  files = ('results.json', 'samples.png') if experiment.method.sample else ('results.json',)
  if mode == 'train' and parallel.agree(workdir.is_finished(folder, config, files)):
    print(f'{folder} is finished: see {" and ".join(files)} there')
    return
  with contextlib.ExitStack() as stack:
    if parallel.is_primary():
      names = (replay.FILE, *workdir.FILES)
      own, publish = stack.enter_context(storage.local_copy(folder, names))
    else:  # what the other processes write comes to nothing
      own = Path(stack.enter_context(tempfile.TemporaryDirectory()))
      publish = None
    tools = Tools(experiment, config, own, devices, publish)
    template = tools.initial_state()
    if mode == 'replay':
      replay.replay(tools, folder, template)
      return
    if mode != 'verify':
      # From here on the folder is written to; whatever is wrong with the config has shown before.
      parallel.on_primary(lambda: stack.enter_context(workdir.claimed(folder, config)))
    guard = stack.enter_context(preemption.Guard())
    checkpoints = stack.enter_context(
      Checkpoints(storage.checkpoints(folder, own), read_only=mode != 'train')
    )
    with guard.deferred():  # a stop inside could be taken for damage
      step, state = checkpoints.restore_newest(template) or (0, template)
    if step == 0 and mode != 'train':
      raise InputError(f'--workdir={folder} holds no checkpoint to {mode}; train one there first')
    state = parallel.replicate(state, devices)
    if mode == 'train':
      train(tools, checkpoints, state, step, guard)
    else:
      variables = tools.final_variables(state)
      if mode == 'evaluate':
        evaluate(tools, variables, step)
      elif mode == 'verify':
        verification.verify(tools, variables, step, recorded)
      else:
        sample(tools, variables)


def train(
  tools: Tools,
  checkpoints: Checkpoints,
  state: training.TrainState,
  first_step: int,
  guard: preemption.Guard,
) -> None:
  """Trains the replicated state from first_step to the end, then evaluates and samples.

  Raises RunError at the first step with a metric that is not finite, preemption.Stopped where the
  guard has been told to stop.
  """
  config, training_config = tools.config, tools.config['training']
  num_steps, batch_size = training_config['num_steps'], training_config['batch_size']
  per_dispatch = training_config['steps_per_dispatch']
  dispatches = training.loop(
    tools.dispatch,
    state,
    tools.key(TRAIN),
    tools.experiment.dataset.train,
    first_step=first_step,
    num_steps=num_steps,
    steps_per_dispatch=per_dispatch,
    batch_size=batch_size,
    seed=config['seed'],
    devices=tools.devices,
  )

  def is_evaluated(step: int) -> bool:
    every = config['evaluation']['every']
    return 0 < step < num_steps and every > 0 and step % every == 0

  def evaluate_between(step: int, state: training.TrainState) -> None:
    variables = tools.final_variables(state)
    metrics = measures.scores(tools, variables)
    if tools.method.sample is not None:
      _report_samples(tools, reporter, step, tools.draw(variables, NUM_PREVIEW_SAMPLES))
    _report_metrics(tools, reporter, step, metrics)
    reporter.stop_clock()

  with reporting.Reporter(
    tools.folder, first_step, num_steps, batch_size, show_bar=parallel.is_primary()
  ) as reporter:
    # An earlier start may have been stopped in the evaluation that follows first_step.
    is_missing = not reporter.has(first_step, tools.experiment.dataset.evaluation.name)
    if is_evaluated(first_step) and parallel.agree(is_missing):
      evaluate_between(first_step, state)
    unread = []
    with guard.deferred():
      for count, done in enumerate(dispatches):
        # Metrics are read one dispatch late, while the device is busy with the next one.
        unread.append(done)
        step, state = done.step, done.state
        stops = guard.is_requested(count)
        is_saved = step % training_config['checkpoint_every'] == 0 or step == num_steps
        while len(unread) > (not (is_evaluated(step) or is_saved or stops)):
          _report_dispatch(tools, reporter, unread.pop(0), state)
        if is_evaluated(step) and not stops:
          try:
            with guard.deferred(False):
              evaluate_between(step, state)
          except preemption.Stopped:
            stops = True
        if is_saved or stops:
          reporter.write_cost(num_steps)
          reporter.sync()
          checkpoints.wait()
          tools.publish()
          checkpoints.save(step, state)
        if stops:
          checkpoints.wait()
          guard.stop(f'after step {step} of {num_steps}, where it is saved')
    variables = tools.final_variables(state)
    evaluate(tools, variables, num_steps, reporter)
    if tools.method.sample is not None:
      _report_samples(tools, reporter, num_steps, sample(tools, variables))


def evaluate(
  tools: Tools, variables: Variables, step: int, reporter: reporting.Reporter | None = None
) -> None:
  """Evaluates the whole split; writes results.json and prints its metrics.

  The reporter, where there is one, gets them first: results.json says that evaluation is done.
  """
  config, split, folder = tools.config, tools.experiment.dataset.evaluation, tools.folder
  metrics, tables = measures.measure(tools, variables)
  if reporter is not None:
    _report_metrics(tools, reporter, step, metrics)
  for name, table in tables.items():
    reporting.write_json(folder / f'{name}.json', table)
  cost = reporting.read_cost(folder) | {
    'num_params': sum(leaf[0].size for leaf in jax.tree.leaves(variables.params))
  }
  if config['quality']['classifier'] and tools.method.sample is not None:
    cost['seconds_per_1000_samples'] = tools.sampling_seconds(variables)
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


def sample(tools: Tools, variables: Variables) -> np.ndarray:
  """Draws samples; writes samples.npz and samples.png and returns them."""
  config, folder = tools.config['sampling'], tools.folder
  x = tools.draw(variables, config['num_samples'])
  _write_arrays(folder / 'samples.npz', samples=x)
  if config['trajectory']:
    _write_chains(tools, variables)
  # The picture comes last: where it is, all is there.
  path = folder / 'samples.png'
  reporting.write_picture(path, reporting.grid(x, tools.experiment.num_levels))
  print(f'{len(x)} samples: {path}')
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


def _report_dispatch(
  tools: Tools,
  reporter: reporting.Reporter,
  done: training.Progress,
  newest_state: training.TrainState,
) -> None:
  """One line for the steps of a dispatch: the mean of each metric over them.

  Raises RunError where a metric is not finite. The newest state is then still the one before that
  step, and is written with all that is needed to do the step again.
  """
  per_step = parallel.unreplicate(done.metrics)
  is_finite = np.isfinite(list(per_step.values())).all(axis=0)
  if not is_finite.all():
    place = int(np.argmin(is_finite))
    at_fault = {name: values[place] for name, values in per_step.items()}
    failure = replay.find(tools, newest_state, at_fault, done.finite[:, place])
    replay.write(tools, newest_state, failure)
    raise RunError(f'{failure.message()}; see it again: {replay.COMMAND.format(tools.folder)}')
  means = {name: float(np.mean(values, dtype=np.float64)) for name, values in per_step.items()}
  reporter.metrics(done.step, 'train', means)
  reporter.progress(done.step, means['loss'])


def _report_metrics(tools: Tools, reporter: reporting.Reporter, step: int, metrics) -> None:
  name = tools.experiment.dataset.evaluation.name
  reporter.metrics(step, name, {name: metric['value'] for name, metric in metrics.items()})


def _report_samples(tools: Tools, reporter: reporting.Reporter, step: int, x) -> None:
  pixels = reporting.grid(x[:NUM_PREVIEW_SAMPLES], tools.experiment.num_levels)
  reporter.picture(step, 'samples', pixels)
