"""Interrupts runs at random moments and compares what they end with, byte for byte.

  python tests/torture.py --kills=100 [--seed=0] [--signals=0.2] [--config=FILE ...] [--folder=F]

A cycle starts a run in a new workdir with the command that a user would give, ends it with SIGKILL
at a random moment, starts it again, and so on a few times; then it lets the run come to its end and
compares it with one that nothing has interrupted. A share of the interruptions, --signals, is
SIGTERM or SIGINT instead, after which the run has to stop by itself; they come on top of --kills.
Some cycles begin with an empty cache of compiled programs, so that it is hit while it is written.

Which phase of the run is hit, after which of its events and how far from it to the next, follows
from the seed alone; how long a phase lasts is measured on this machine. Prints a line for each
interruption, with the phase that the run was really in, and a table of them.

Exit status: 0 where all runs end alike, 1 where one does not.
"""

import argparse
import collections
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments import workdir
from experiments.build import build
from experiments.tools import Tools
from vaediff import reporting
from vaediff.checkpoints import Checkpoints, contents

ROOT = Path(__file__).parents[1]
# A diffusion model whose time sampler remembers losses, and a method that fits after training.
CONFIGS = [f'configs/variants.py:{name},tiny' for name in ('diffusion_importance', 'vae_mixture')]
NUM_STEPS, PER_DISPATCH, CHECKPOINT_EVERY = 100, 5, 10
OVERRIDES = {
  'training.num_steps': NUM_STEPS,
  'training.steps_per_dispatch': PER_DISPATCH,
  'training.checkpoint_every': CHECKPOINT_EVERY,
  'evaluation.every': 20,
  'sampling.num_samples': 64,
}
# In this order a cycle hits them; those of training come in any order.
PHASES = {'compilation': 0, 'training': 0, 'checkpoint write': 0, 'evaluation': 1, 'sampling': 2}
MAX_INTERRUPTIONS, COLD_SHARE = 8, 0.2
POLL_SECONDS, STOP_SECONDS, LIMIT_SECONDS = 0.003, 10, 300


class Plan(NamedTuple):
  """An interruption: the phase that is meant, and where in it, as two numbers in [0, 1).

  event: which of those still to come is waited for: lines of metrics.jsonl, or checkpoints.
  fraction: how much of the time to the next is waited for then.
  """

  signum: signal.Signals
  phase: str
  event: float
  fraction: float


class Snapshot(NamedTuple):
  """What a workdir holds.

  checkpoints: the steps that have one. writes: the names of those that are being written.
  metrics: which metrics.jsonl it is: each start makes a new one. lines: its (step, split).
  results: which results.json it is. is_finished: whether the last file is there.
  """

  checkpoints: list[int]
  writes: set[str]
  metrics: int | None
  lines: list[tuple[int, str]]
  results: int | None
  is_finished: bool

  def newest(self) -> int:
    """The step of the newest checkpoint, 0 where there is none."""
    return max(self.checkpoints, default=0)

  def __str__(self):
    parts = [f'checkpoints {", ".join(map(str, self.checkpoints)) or "none"}']
    parts += [f'{len(self.lines)} lines'] + [f'{name} begun' for name in self.writes]
    parts += ['results.json'] * bool(self.results) + ['samples.png'] * self.is_finished
    return ', '.join(parts)


def look(folder: Path) -> Snapshot:
  """The workdir as it is now; a run may be writing to it."""
  checkpoints = folder / 'checkpoints'
  names = os.listdir(checkpoints) if checkpoints.is_dir() else []
  path, lines = folder / 'metrics.jsonl', []
  if path.exists():
    whole = path.read_text().rpartition('\n')[0]
    lines = [(line['step'], line['split']) for line in map(json.loads, whole.splitlines())]
  return Snapshot(
    sorted(int(name) for name in names if name.isdigit()),
    {name for name in names if 'tmp' in name},
    _inode(path),
    lines,
    _inode(folder / 'results.json'),
    (folder / 'samples.png').exists(),
  )


def _inode(path: Path) -> int | None:
  return path.stat().st_ino if path.exists() else None


def phase_of(before: Snapshot, now: Snapshot) -> str:
  """The phase of a run that started when its folder was as before; 'end' where it has ended."""
  if now.is_finished:
    return 'end'
  if now.results and now.results != before.results:
    return 'sampling'
  if now.metrics and now.metrics != before.metrics:
    if (NUM_STEPS, 'train') in now.lines:
      return 'evaluation'
    if now.lines and now.lines[-1][0] > before.newest():
      return 'training'
  return 'compilation'


def is_writing(before: Snapshot, now: Snapshot) -> bool:
  """Whether a checkpoint is being written; an earlier start's rests are none once it trains."""
  return bool(now.writes) and phase_of(before, now) != 'compilation'


class Experiment:
  """A config, as its users run it."""

  def __init__(self, config: str, cache: Path):
    self.name = config
    overrides = [f'--config.{name}={value}' for name, value in OVERRIDES.items()]
    self._command = [sys.executable, '-m', 'experiments.run', f'--config={config}', *overrides]
    self._environment = os.environ | {
      'JAX_COMPILATION_CACHE_DIR': str(cache),
      # Everything is kept, so that the cache is written and read often.
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    }
    self._template = None

  def start(self, folder: Path) -> subprocess.Popen:
    """Starts the run; `said` is what it says."""
    # What runs in the background of a shell is deaf to SIGINT, and so are its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name('stderr.txt').open('w') as stderr:
      return subprocess.Popen(
        [*self._command, f'--workdir={folder}'],
        cwd=ROOT,
        env=self._environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
      )

  def newest_contents(self, folder: Path) -> tuple[int, dict]:
    """The newest checkpoint, restored and checked: its step, and a hash of each of its arrays."""
    if self._template is None:
      config = workdir.read_config(folder)
      self._template = Tools(build(config), config, folder, jax.devices()[:1]).state_shapes()
    with Checkpoints(folder / 'checkpoints', read_only=True) as checkpoints:
      step, state = checkpoints.restore_newest(self._template)
    return step, contents(state)


def said(folder: Path) -> str:
  """What the last start of a run has said on stderr."""
  return folder.with_name('stderr.txt').read_text()


def watch(process: subprocess.Popen, folder: Path) -> Iterator[Snapshot]:
  """The workdir again and again, until the process ends. Raises TimeoutError where it does not."""
  end = time.monotonic() + LIMIT_SECONDS
  while process.poll() is None:
    yield look(folder)
    time.sleep(POLL_SECONDS)
    if time.monotonic() > end:
      process.kill()
      raise TimeoutError(f'{folder} is not done after {LIMIT_SECONDS} s')


def finish(experiment: Experiment, folder: Path) -> dict[str, float]:
  """Lets a run come to its end; the seconds of its phases, of one event where they have some."""
  before, begin, seconds = look(folder), time.monotonic(), collections.Counter()
  process, last, writes = experiment.start(folder), begin, set()
  for now in watch(process, folder):
    elapsed, last = time.monotonic() - last, time.monotonic()
    seconds[phase_of(before, now)] += elapsed
    if is_writing(before, now):
      seconds['checkpoint write'] += elapsed
      writes |= now.writes
  seconds['training'] /= NUM_STEPS / PER_DISPATCH
  seconds['checkpoint write'] /= max(len(writes), 1)
  if process.returncode:
    raise RuntimeError(f'{folder} ends with status {process.returncode}: {said(folder)}')
  return seconds


def interrupt(
  experiment: Experiment, folder: Path, plan: Plan, seconds: dict[str, float]
) -> tuple[str, Snapshot, list[str]] | None:
  """Starts the run and interrupts it; None where it has written its last file before.

  Returns the phase that it was in, what there was or is left, and what it did wrong.
  """
  before, writes = look(folder), set()
  phase, left = plan.phase, NUM_STEPS - before.newest()
  if left == 0 and PHASES[phase] == 0:
    phase = 'evaluation'
  process = experiment.start(folder)
  for now in watch(process, folder):
    if is_writing(before, now):
      writes |= now.writes
    trained = sum(step > before.newest() and split == 'train' for step, split in now.lines)
    is_open = now.metrics != before.metrics
    if {
      'compilation': True,
      'training': is_open and trained > plan.event * (left / PER_DISPATCH - 1),
      'checkpoint write': len(writes) > plan.event * (left / CHECKPOINT_EVERY - 1),
    }.get(phase, phase_of(before, now) == phase):
      break
  time.sleep(plan.fraction * seconds[phase])
  now = look(folder)
  process.send_signal(plan.signum)
  begin, status = time.monotonic(), process.wait(LIMIT_SECONDS)
  waited = time.monotonic() - begin
  if plan.signum == signal.SIGKILL:
    now = look(folder)
  if now.is_finished:
    return None
  where = 'checkpoint write' if is_writing(before, now) else phase_of(before, now)
  wrong = []
  # Before that Python itself ends the program, an import that SIGINT breaks off in any way.
  is_under_way = where != 'compilation' or f'stopped by {plan.signum.name}' in said(folder)
  is_expected = status == -plan.signum or (plan.signum == signal.SIGINT and not is_under_way)
  if not is_expected and not look(folder).is_finished:
    wrong.append(f'exit status {status}')
  if is_under_way:
    wrong += [f'a traceback: {said(folder)}'] * ('Traceback' in said(folder))
  if where != 'compilation' and waited > STOP_SECONDS:
    wrong.append(f'{waited:.1f} s to stop')
  return where, now, wrong


def differences(experiment: Experiment, reference: Path, folder: Path) -> list[str]:
  """In what a finished run differs from the reference."""
  wrong = []
  if experiment.newest_contents(reference) != experiment.newest_contents(folder):
    wrong.append('checkpoint')
  for name in ('config.json', 'metrics.jsonl', 'samples.png'):
    if (reference / name).read_bytes() != (folder / name).read_bytes():
      wrong.append(name)
  one, other = (json.loads((w / 'results.json').read_text()) for w in (reference, folder))
  if one | {'cost': 0} != other | {'cost': 0} or one['cost'].keys() != other['cost'].keys():
    wrong.append('results.json')
  one, other = (np.load(w / 'samples.npz')['samples'] for w in (reference, folder))
  if one.dtype != other.dtype or not np.array_equal(one, other):
    wrong.append('samples.npz')
  names = ({path.name for path in w.iterdir()} for w in (reference, folder))
  rests = [path.name for path in (folder / 'checkpoints').iterdir() if not path.name.isdigit()]
  wrong += [f'rests: {name}' for name in [*(next(names) ^ next(names)), *rests]]
  if 'Traceback' in said(folder):
    wrong.append('a traceback')
  return wrong


def main(arguments: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--kills', type=int, required=True, help='how many times SIGKILL is sent')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--signals', type=float, default=0.2, help='share of SIGTERM and SIGINT')
  parser.add_argument('--config', action='append', help='one that takes digits and is tiny')
  parser.add_argument('--folder', type=Path, help='where the runs are kept; default: nowhere')
  options = parser.parse_args(arguments)
  jax.config.update('jax_platforms', 'cpu')  # an accelerator is for the runs
  with tempfile.TemporaryDirectory() as temporary:
    return torture(options, options.folder or Path(temporary))


def torture(options: argparse.Namespace, root: Path) -> int:
  """Interrupts runs under the folder root; returns the exit status."""
  begin, cache = time.monotonic(), root / 'cache'
  experiments = [Experiment(config, cache) for config in options.config or CONFIGS]
  cold, warm, num_wrong = [], [], 0
  for i, experiment in enumerate(experiments):
    reference, again = root / f'reference_{i}' / 'w', root / f'again_{i}' / 'w'
    cold.append(finish(experiment, reference))
    warm.append(finish(experiment, again))
    num_wrong += _report(f'{experiment.name}, uninterrupted', experiment, reference, again)
  table, num_kills, cycle = collections.Counter(), 0, 0
  while num_kills < options.kills:
    i = cycle % len(experiments)
    experiment, reference = experiments[i], root / f'reference_{i}' / 'w'
    folder = root / f'cycle_{cycle}' / 'w'
    rng = np.random.default_rng([options.seed, cycle])
    seconds = warm[i]
    if rng.random() < COLD_SHARE:
      shutil.rmtree(cache)
      seconds = cold[i]
    for plan in draw_plans(rng, options.signals):
      done = interrupt(experiment, folder, plan, seconds) if num_kills < options.kills else None
      if done is None:
        continue
      where, left, wrong = done
      table[plan.signum.name, where] += 1
      num_kills += plan.signum == signal.SIGKILL
      num_wrong += bool(wrong)
      print(f'cycle {cycle}: {plan.signum.name} in {where}: {left}', *wrong, sep='; ', flush=True)
      seconds = warm[i]
    finish(experiment, folder)
    num_wrong += _report(f'cycle {cycle}, {experiment.name}', experiment, reference, folder)
    cycle += 1
  _print_table(table)
  minutes = (time.monotonic() - begin) / 60
  print(f'{cycle} runs in {minutes:.1f} min; {num_wrong} differences')
  return 1 if num_wrong else 0


def draw_plans(rng: np.random.Generator, signals: float) -> list[Plan]:
  """The interruptions of a cycle, in their order."""
  plans = []
  for _ in range(rng.integers(1, MAX_INTERRUPTIONS + 1)):
    signum = signal.SIGKILL
    if rng.random() < signals:
      signum = signal.Signals(rng.choice([signal.SIGTERM, signal.SIGINT]))
    plans.append(Plan(signum, str(rng.choice(list(PHASES))), rng.random(), rng.random()))
  return sorted(plans, key=lambda plan: PHASES[plan.phase])


def _report(name: str, experiment: Experiment, reference: Path, folder: Path) -> bool:
  """Says in what a run differs from the reference; whether it does."""
  wrong = differences(experiment, reference, folder)
  print(f'{name}: {", ".join(wrong) or "the same"}', flush=True)
  return bool(wrong)


def _print_table(table: collections.Counter) -> None:
  names = sorted({name for name, _ in table}, key=lambda name: name != 'SIGKILL')
  rows = [[phase, *(str(table[name, phase]) for name in names)] for phase in PHASES]
  print(reporting.table(['phase', *names], rows), end='')


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
