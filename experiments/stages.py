"""The stages of a run: train, evaluate, sample. Each reads and writes the run's workdir."""

import contextlib
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from experiments import measures, preemption, replay, schema, storage, verification, workdir
from experiments.build import build
from experiments.tools import Tools
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
  for name, (size, num_parts) in schema.batch_sizes(config).items():
    schema.check_divisible(name, size, len(devices), num_parts)
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
    _check_all_living(workdir.failed_seeds(folder))
    return
  with contextlib.ExitStack() as stack:
    if parallel.is_primary():
      names = (*replay.file_names(config).values(), *workdir.FILES)
      own, publish = stack.enter_context(storage.local_copy(folder, names))
    else:  # what the other processes write comes to nothing
      own = Path(stack.enter_context(tempfile.TemporaryDirectory()))
      publish = None
    tools = Tools(experiment, config, own, devices, publish, folder)
    if mode == 'replay':
      replay.replay(tools, folder)
      return
    template = tools.state_shapes()
    if mode != 'verify':
      # From here on the folder is written to; whatever is wrong with the config has shown before.
      parallel.on_primary(lambda: stack.enter_context(workdir.claimed(folder, config)))
    guard = stack.enter_context(preemption.Guard())
    checkpoints = stack.enter_context(
      Checkpoints(storage.checkpoints(folder, own), read_only=mode != 'train')
    )
    with guard.deferred():  # a stop inside could be taken for damage
      step, state = checkpoints.restore_newest(template) or (0, None)
    if step == 0 and mode != 'train':
      raise InputError(f'--workdir={folder} holds no checkpoint to {mode}; train one there first')
    state = parallel.replicate(tools.initial_state() if state is None else state, devices)
    if mode == 'train':
      train(tools, checkpoints, state, step, guard)
    else:
      tools, state = tools.living(state, step)
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

  A seed goes no further than to its first step with a metric that is not finite; the others do.
  Raises RunError when no seed goes on, and in the end where some did not; preemption.Stopped where
  the guard has been told to stop.
  """
  config, training_config = tools.config, tools.config['training']
  num_steps, batch_size = training_config['num_steps'], training_config['batch_size']
  dispatches = tools.dispatches(state, first_step)

  def is_evaluated(step: int) -> bool:
    every = config['evaluation']['every']
    return 0 < step < num_steps and every > 0 and step % every == 0

  def evaluate_between(step: int, state: training.TrainState) -> None:
    living, state = tools.living(state, step)
    variables = living.final_variables(state)
    metrics = measures.measure_between(living, variables)
    if tools.method.sample is not None:
      _report_samples(living, reporter, step, living.draw(variables, NUM_PREVIEW_SAMPLES))
    _report_metrics(living, reporter, step, metrics)
    reporter.stop_clock()

  living, _ = tools.living(state, first_step)
  failed = dict(living.failed)
  num_examples = batch_size * len(tools.seeds)
  with reporting.Reporter(
    tools.folder, first_step, num_steps, num_examples, show_bar=parallel.is_primary()
  ) as reporter:
    # An earlier start may have been stopped in the evaluation that follows first_step.
    split_name, last = tools.experiment.dataset.evaluation.name, living.tag(living.seeds[-1])
    is_missing = not reporter.has(first_step, split_name, last)
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
          _report_dispatch(tools, reporter, unread.pop(0), state, failed)
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
    living, state = tools.living(state, num_steps)
    variables = living.final_variables(state)
    evaluate(living, variables, num_steps, reporter)
    if tools.method.sample is not None:
      _report_samples(living, reporter, num_steps, sample(living, variables))
  _check_all_living(failed)


def evaluate(
  tools: Tools, variables: Variables, step: int, reporter: reporting.Reporter | None = None
) -> None:
  """Evaluates the whole split; writes results.json and prints its metrics.

  Of several seeds results.json has each, and in their place as `metrics` the means over them. The
  reporter, where there is one, gets them first: results.json says that evaluation is done.
  """
  config, split, folder = tools.config, tools.experiment.dataset.evaluation, tools.folder
  of_seeds, tables = zip(*measures.measure(tools, variables), strict=True)
  if reporter is not None:
    _report_metrics(tools, reporter, step, of_seeds)
  for name in tables[0]:
    table = [{'seed': seed} | own[name] for seed, own in zip(tools.seeds, tables, strict=True)]
    own = {'seeds': table} if tools.over_seeds else tables[0][name]
    reporting.write_json(folder / f'{name}.json', own)
  num_params = sum(leaf[0].size for leaf in jax.tree.leaves(variables.params)) // len(tools.seeds)
  cost = reporting.read_cost(folder) | {'num_params': num_params}
  if config['quality']['classifier'] and tools.method.sample is not None:
    cost['seconds_per_1000_samples'] = tools.sampling_seconds(variables)
  metrics = measures.over_seeds(of_seeds) if tools.over_seeds else of_seeds[0]
  results = {
    'method': config['method']['name'],
    'dataset': config['data']['name'],
    'split': split.name,
    'step': step,
    'num_examples': len(split.x),
    'metrics': metrics,
    **({'seeds': _entries(tools, of_seeds)} if tools.over_seeds else {}),
    'protocol': tools.experiment.protocol | {'quality': config['quality']},
    'cost': cost,
    'provenance': workdir.provenance(config),
  }
  reporting.write_json(folder / 'results.json', results)
  if tools.over_seeds:
    print(f'means and their standard errors over {len(tools.seeds)} seeds:')
  for name, metric in metrics.items():
    print(f'{name:26} {metric["value"]:10.4f} +- {metric["stderr"]:.4f} {metric["unit"]}')


def _entries(tools: Tools, metrics: Sequence[dict]) -> list[dict]:
  """What results.json says of each seed."""
  living = {seed: {'metrics': own} for seed, own in zip(tools.seeds, metrics, strict=True)}
  failed = {seed: {'failed_at_step': step} for seed, step in tools.failed.items()}
  return [{'seed': seed} | entry for seed, entry in sorted((living | failed).items())]


def _check_all_living(failed: Mapping[int, int]) -> None:
  """Raises RunError where a seed did not come to the end. failed: {seed: its step}."""
  if failed:
    where = ', '.join(f'{seed} (step {step})' for seed, step in sorted(failed.items()))
    raise RunError(f'these seeds met a step that was not finite, and are in no mean: {where}')


def sample(tools: Tools, variables: Variables) -> list[np.ndarray]:
  """Draws samples of each seed; writes samples.npz and samples.png and returns them.

  The samples of several seeds stand one after the other, `seed` beside them.
  """
  config, folder = tools.config['sampling'], tools.folder
  drawn = tools.draw(variables, config['num_samples'])
  x, seeds = np.concatenate(drawn), np.repeat(tools.seeds, config['num_samples'])
  _write_arrays(folder / 'samples.npz', samples=x, **({'seed': seeds} if tools.over_seeds else {}))
  if config['trajectory']:
    _write_chains(tools, variables)
  # The picture comes last: where it is, all is there.
  path = folder / 'samples.png'
  reporting.write_picture(path, reporting.grid(x, tools.experiment.num_levels))
  print(f'{len(x)} samples: {path}')
  return drawn


def _write_chains(tools: Tools, variables: Variables) -> None:
  """Writes the chains behind the samples: trajectory.npz, whole, and trajectory.gif."""
  drawn = tools.draw_chains(variables, tools.config['sampling']['num_samples'])
  chains = jax.tree.map(lambda *leaves: np.concatenate(leaves), *drawn)
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
  failed: dict[int, int],
) -> None:
  """One line for the steps of a dispatch, and each seed: the mean of each metric over them.

  failed: {seed: the step that was not finite}, to which those of this dispatch are added. The
  newest state of such a seed is still the one before that step, and is written with all that is
  needed to do the step again. Raises RunError where no seed is left.
  """
  losses = []
  for place, per_step in enumerate(tools.unstack(parallel.unreplicate(done.metrics))):
    seed = tools.seeds[place]
    if seed in failed:
      continue
    is_finite = np.isfinite(list(per_step.values())).all(axis=0)
    if is_finite.all():
      means = {name: float(np.mean(values, dtype=np.float64)) for name, values in per_step.items()}
      reporter.metrics(done.step, 'train', means, tools.tag(seed))
      losses.append(means['loss'])
    else:
      step = int(np.argmin(is_finite))
      at_fault = {name: values[step] for name, values in per_step.items()}
      failed[seed] = _keep_failure(tools, place, done, step, at_fault, newest_state)
  if not losses:
    _check_all_living(failed)
  reporter.progress(done.step, float(np.mean(losses)))


def _keep_failure(
  tools: Tools,
  place: int,
  done: training.Progress,
  step: int,
  metrics: dict,
  newest_state: training.TrainState,
) -> int:
  """Writes the failure of the seed at this place, in this step of the dispatch; returns its number.

  Says so in a warning, or raises RunError where the run has no other seed.
  """
  before = tools.unstack(parallel.unreplicate(newest_state))[place]
  finite = tools.unstack(done.finite, axis=1)[place][:, step]
  seed = tools.seeds[place]
  failure = replay.find(tools.of_seed(seed), before, metrics, finite)
  replay.write(tools.folder / replay.file_names(tools.config)[seed], before, failure)
  text = f'{failure.message()}; see it again: {replay.COMMAND.format(tools.kept_in)}'
  if not tools.over_seeds:
    raise RunError(text)
  logging.getLogger(__name__).warning('seed %d goes no further: %s', seed, text)
  return failure.step


def _report_metrics(
  tools: Tools, reporter: reporting.Reporter, step: int, metrics: Sequence[dict]
) -> None:
  name = tools.experiment.dataset.evaluation.name
  for seed, own in zip(tools.seeds, metrics, strict=True):
    values = {name: metric['value'] for name, metric in own.items()}
    reporter.metrics(step, name, values, tools.tag(seed))


def _report_samples(
  tools: Tools, reporter: reporting.Reporter, step: int, drawn: Sequence[np.ndarray]
) -> None:
  shown = np.concatenate([x[:NUM_PREVIEW_SAMPLES] for x in drawn])
  reporter.picture(step, 'samples', reporting.grid(shown, tools.experiment.num_levels))
