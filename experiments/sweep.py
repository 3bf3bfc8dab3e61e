"""Runs a sweep: many trials, each an ordinary run, and a table of what they come to.

  python -m experiments.sweep --sweep=configs/sweeps/NAME.py --workdir=W
         [--engine=local|ray] [--workers=N] [--resources=gpus=1,cpus=4] [--early_stopping]
         [--dry_run]

`experiments/trials.py` says what a sweep file holds. Each trial is a run in W/trials/HASH, the hash
of its resolved config. Started again on the same workdir the sweep goes on: trials that are done
are not run again, those that were stopped resume, and one whose config has changed is a new one. A
trial that fails leaves the others alone. At the end there are W/sweep.json, sweep.md and sweep.csv.

The engine `local` runs as many trials at a time as this machine has cores or GPUs for; `ray` as
many as the cluster has, which is the one at RAY_ADDRESS or else this machine. --workers is for
fewer. --resources overrides what a trial gets. --early_stopping, with ray, ends by ASHA the trials
that are behind in the first of the collected metrics. --dry_run prints the trials and what they
cost.

Exit status: 0 done; 2 the input is wrong, with one line that says how to mend it; 1 a trial has
failed. A sweep that SIGTERM or SIGINT has stopped has its trials save, and ends by that signal.
"""

import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
from absl import flags
from tqdm import tqdm

from experiments import (
  local_engine,
  plan,
  preemption,
  program,
  schema,
  search,
  storage,
  summary,
  trials,
  workdir,
)
from experiments.trials import Sweep, Trial
from vaediff import reporting
from vaediff.errors import InputError

SWEEP = flags.DEFINE_string('sweep', None, 'Sweep file.')
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the sweep.')
ENGINE = flags.DEFINE_enum('engine', 'local', ['local', 'ray'], 'What runs the trials.')
WORKERS = flags.DEFINE_integer('workers', None, 'How many trials run at a time.', lower_bound=1)
RESOURCES = flags.DEFINE_list('resources', [], 'Overrides those of the sweep: NAME=VALUE,...')
EARLY_STOPPING = flags.DEFINE_bool('early_stopping', False, 'Ends trials that are behind, by ASHA.')
DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Prints the trials and their cost, and runs none.')

# What a run has that is done. One that generates nothing has no samples, and says when it is
# started that it is done.
_LAST_FILES = ('results.json', 'samples.png')
# Says that early stopping has ended a trial.
_STOPPED = '.stopped_early'


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns the exit status, or ends by the signal that stopped it."""

  def body() -> int:
    jax.config.update('jax_platforms', 'cpu')  # accelerators are for the trials
    sweep = parse(argv)
    if DRY_RUN.value:
      print('\n'.join(forecast(sweep, next(search.rounds(sweep, {})))))
      return 0
    with preemption.Guard():
      return 1 if run(sweep, storage.path(WORKDIR.value)) else 0

  return program.exit_status(argv, __doc__, body)


def parse(argv: Sequence[str]) -> Sweep:
  """The sweep, checked. Raises InputError for a wrong command line."""
  usage = 'python -m experiments.sweep --sweep=FILE --workdir=FOLDER'
  program.parse(argv, usage, ['sweep', 'workdir'])
  sweep = trials.load(SWEEP.value)
  return sweep._replace(resources=trials.parse_resources(RESOURCES.value, sweep.resources))


def forecast(sweep: Sweep, expanded: Sequence[Trial]) -> list[str]:
  """A line for each trial: its name, its seed, what differs from the config, what it costs.

  The hours are those of `experiments.plan`, on the devices that a trial gets.
  """

  @functools.cache
  def estimate(shape: str) -> plan.Estimate | str:
    try:
      return plan.estimate(shapes[shape], *_devices(sweep.resources))
    except InputError as error:
      return str(error)

  shapes, lines, operations, hours = {}, [], 0.0, 0.0
  for trial in expanded:
    # Numbers that are no integers, and the seed, change nothing in the operations of a step.
    fields = schema.flatten(trial.config | {'seed': 0})
    shape = json.dumps({k: v for k, v in fields.items() if not isinstance(v, float)})
    shapes.setdefault(shape, trial.config)
    line = f'{trial.name}  seed {trial.config["seed"]}  {trials.in_words(trial.setting)}'
    cost = estimate(shape)
    if isinstance(cost, plan.Estimate):
      own = cost.program.operations * cost.chips * cost.num_steps
      operations, hours = operations + own, hours + cost.hours
      line += (
        f'  ({cost.program.num_params:,} parameters, {own:.3g} operations, {cost.hours:.2g} h)'
      )
    lines.append(line)
  kind, chips = _devices(sweep.resources)
  lines.append(
    f'{len(expanded)} trials, {operations:.3g} floating point operations of training in all, '
    f'{hours:.3g} hours one after the other, each on {chips} x {kind}'
  )
  unknown = [cost for cost in map(estimate, shapes) if isinstance(cost, str)]
  lines += [f'without those whose cost is unknown: {cost}' for cost in dict.fromkeys(unknown)]
  return lines


def _devices(resources: Mapping) -> tuple[str, int]:
  """The kind of device of a trial, as `experiments.plan` names it, and how many."""
  each = resources['tpus'] or resources['gpus']
  if not each:
    return plan.HERE, 1
  kind = resources['accelerator'].lower().replace('-', '_')
  return kind or plan.HERE, each * resources['hosts']


def run(sweep: Sweep, folder: Path) -> int:
  """Runs the trials that are not done, and writes the table; returns how many have failed."""
  engine = _engine(sweep)
  progress, expanded = Progress(sweep, folder / 'trials'), []
  rounds = search.rounds(sweep, progress.collected)
  trials_of_round = next(rounds)  # nothing is written where it is not in order
  with workdir.locked(folder), progress:
    while trials_of_round:
      expanded += trials_of_round
      waiting = progress.add(trials_of_round)
      for trial in waiting:
        (folder / 'trials' / trial.name).mkdir(parents=True, exist_ok=True)
        reporting.write_json(folder / 'trials' / trial.name / 'config.json', trial.config)
      engine(waiting, sweep.resources, folder / 'trials', WORKERS.value, progress.report)
      trials_of_round = next(rounds, None)
    table = summary.summarize(sweep, expanded, progress.states, progress.collected, progress.errors)
    summary.write(folder, table)
  print(f'{summary.markdown(table)}\n{folder / summary.NAME}.json, .md, .csv')
  return len(progress.errors)


def _engine(sweep: Sweep) -> Callable:
  """What runs the trials. Raises InputError where it is not there, or cannot do what is asked."""
  if ENGINE.value == 'local':
    if EARLY_STOPPING.value:
      raise InputError('--early_stopping takes --engine=ray')
    return local_engine.run
  try:
    from experiments import ray_engine
  except ImportError as error:
    raise InputError(f"--engine=ray takes Ray ({error}): pip install 'vaediff[ray]'") from error
  if not EARLY_STOPPING.value:
    return ray_engine.run
  every, metric = sweep.config['evaluation']['every'], summary.label(sweep.collect[0])
  if every == 0 or sweep.resources['hosts'] > 1:
    raise InputError(
      f'--early_stopping with evaluation.every = {every} and resources.hosts = '
      f'{sweep.resources["hosts"]}; it takes trials that are evaluated as they train, on one host'
    )
  rule = ray_engine.EarlyStopping(metric, sweep.best, every, sweep.config['training']['num_steps'])
  return functools.partial(ray_engine.run, early_stopping=rule)


class Progress:
  """Keeps the states of the trials, and shows how many run and have failed, and the time left.

  states: {name: 'waiting', 'running', 'done', 'failed' or 'stopped'}, the last by early stopping.
  collected: {name: {key: number}} of those that are done. errors: {name: line} of those that have
  failed.
  """

  def __init__(self, sweep: Sweep, folder: Path):
    self._keys, self._folder = sweep.collect, folder
    self._settings, self.states, self.collected, self.errors = {}, {}, {}, {}

  def add(self, expanded: Sequence[Trial]) -> list[Trial]:
    """Has more trials in the bar; returns those that wait for being run."""
    self._settings |= {trial.name: trials.in_words(trial.setting) for trial in expanded}
    self.states |= {trial.name: 'waiting' for trial in expanded}
    self._bar.total = len(self.states)
    for trial in expanded:
      if workdir.is_finished(self._folder / trial.name, trial.config, _LAST_FILES):
        self.report('done', trial.name)
        self._bar.initial += 1  # the time left is told from those of this start
      elif EARLY_STOPPING.value and (self._folder / trial.name / _STOPPED).exists():
        self.report('stopped', trial.name)
        self._bar.initial += 1
    return [trial for trial in expanded if self.states[trial.name] == 'waiting']

  def report(self, state: str, name: str, text: str = '') -> None:
    """To be called when the state of a trial has changed; the text says why it has failed."""
    if state == 'done':
      try:
        self.collected[name] = summary.collect(self._folder / name, self._keys)
      except InputError as error:
        state, text = 'failed', str(error)
    if state == 'stopped':
      (self._folder / name / _STOPPED).write_text('')
    if state == 'failed':
      self.errors[name] = text
      self._bar.write(
        f'failed: {self._folder / name} ({self._settings[name]}): {text}', file=sys.stderr
      )
    self.states[name] = state
    states = list(self.states.values())
    self._bar.set_postfix({s: states.count(s) for s in ('running', 'failed')}, refresh=False)
    self._bar.n = sum(state not in ('waiting', 'running') for state in states)
    self._bar.refresh()

  def __enter__(self):
    self._bar = tqdm(total=0, unit='trial', dynamic_ncols=True)
    return self

  def __exit__(self, *_) -> None:
    self._bar.close()


if __name__ == '__main__':
  sys.exit(main(sys.argv))
