"""Runs the trials of a sweep on this machine: as many at a time as it has devices or cores for.

Each trial is a process of its own, with its own GPUs, and with as many threads as it asks for,
whatever the machine has: XLA adds up in another order on another number of threads, so that this is
what makes the numbers the same, to the last bit, however many trials run at a time.
"""

import collections
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments import storage, workdir
from experiments.trial import STOP_SECONDS
from experiments.trials import Trial
from vaediff.errors import InputError

COMMAND = (sys.executable, '-m', 'experiments.trial')
# How often a trial is started again that was killed, as by a machine which is out of memory.
NUM_RETRIES = 3
ROOT = Path(__file__).parents[1]
_POLL_SECONDS = 0.05


class Process(NamedTuple):
  """A trial that runs. slot: the GPUs that it has."""

  trial: Trial
  process: subprocess.Popen
  slot: Sequence[str]


def run(
  trials: Sequence[Trial],
  resources: Mapping,
  folder: Path,
  num_workers: int | None,
  report: Callable[[str, str, str], None],
) -> None:
  """Runs the trials, whose workdirs are in the folder, num_workers at a time.

  num_workers: None for as many as there are resources for. report(state, name, text): called when
  the state of a trial has become 'running', 'done' or 'failed'; the text says why it has failed.

  Raises InputError where there are fewer devices or cores. Whatever is raised from here, the trials
  that run are told to save and to stop first.
  """
  slots, waiting = _slots(resources, num_workers), collections.deque(trials)
  starts, running = collections.Counter(), []
  try:
    while waiting or running:
      while waiting and slots:
        trial, slot = waiting.popleft(), slots.pop()
        starts[trial.name] += 1
        devices = {'CUDA_VISIBLE_DEVICES': ','.join(slot)} if slot else {}
        process = start(folder / trial.name, environment(resources) | devices)
        running.append(Process(trial, process, slot))
        report('running', trial.name, '')
      for done in [p for p in running if p.process.poll() is not None]:
        running.remove(done)
        slots.append(done.slot)
        name, status = done.trial.name, done.process.returncode
        if status < 0 and starts[name] <= NUM_RETRIES:
          waiting.append(done.trial)
        elif status:
          report('failed', name, reason(status, folder / name))
        else:
          report('done', name, '')
      time.sleep(_POLL_SECONDS)
  finally:
    stop([p.process for p in running])


def check(resources: Mapping, num_workers: int | None) -> None:
  """Raises InputError where `run` would for these resources."""
  _slots(resources, num_workers)


def start(
  folder: Path,
  environment: Mapping[str, str],
  arguments: Sequence[str] = (),
  log_name: str = workdir.LOG,
) -> subprocess.Popen:
  """Starts the trial of a workdir, which has its config; what it says goes to its log."""
  with log_of(folder, log_name).open('w') as log:
    return subprocess.Popen(
      [*COMMAND, f'--workdir={folder}', *arguments],
      env=os.environ | environment,
      stdin=subprocess.PIPE,
      stdout=log,
      stderr=log,
      # So that it is this process, and no terminal, that tells it to stop.
      start_new_session=True,
    )


def log_of(folder: Path, name: str = workdir.LOG) -> Path:
  """What a trial says: in its workdir, or of one on object storage among this machine's own."""
  if storage.is_remote(folder):
    return Path(tempfile.gettempdir()) / f'{folder.name}_{name}'
  return folder / name


def stop(processes: Sequence[subprocess.Popen]) -> None:
  """Tells trials to save and to stop, and waits until they have."""
  for process in processes:
    process.terminate()
  for process in processes:
    try:
      process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()


def environment(resources: Mapping) -> dict[str, str]:
  """The environment variables of a trial: its threads, its platform, and where this code is."""
  cpus = str(resources['cpus'])
  paths = [str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
  # NPROC is what XLA takes as the number of cores.
  threads = dict.fromkeys(('NPROC', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'), cpus)
  platform = {} if resources['gpus'] or resources['tpus'] else {'JAX_PLATFORMS': 'cpu'}
  return threads | platform | {'PYTHONPATH': os.pathsep.join(paths)}


def reason(status: int, folder: Path) -> str:
  """Why a trial has failed, in one line: what it said last."""
  if status < 0:
    return f'killed by signal {-status}, {NUM_RETRIES + 1} times'
  lines = log_of(folder).read_text(errors='replace').split('\n')
  said = [line.strip() for line in lines if line.strip()] or ['nothing']
  errors = [line for line in said if line.startswith('error: ')]
  return f'status {status}: {(errors or said)[-1].removeprefix("error: ")}'


def _slots(resources: Mapping, num_workers: int | None) -> list[Sequence[str]]:
  """The GPUs of each of the trials that run at a time; of none, where they ask for none."""
  if resources['hosts'] > 1:
    raise InputError(
      f'resources.hosts is {resources["hosts"]}; trials on several hosts take --engine=ray'
    )
  gpus = _gpus() if resources['gpus'] else []
  room = {'cpus': (os.cpu_count() or 1) // resources['cpus']}
  if resources['gpus']:
    room['gpus'] = len(gpus) // resources['gpus']
  if resources['tpus']:
    room['tpus'] = 1  # a process takes all TPUs of its host
  scarce = min(room, key=room.get)
  if (num_workers or 1) > room[scarce]:
    raise InputError(
      f'--workers={num_workers or 1} with {resources[scarce]} {scarce} for each trial is more than '
      f'this machine has, which is room for {room[scarce]}; ask for fewer'
    )
  num_workers, share = num_workers or room[scarce], resources['gpus']
  return [gpus[i * share : (i + 1) * share] for i in range(num_workers)]


def _gpus() -> list[str]:
  """The GPUs that this process may use, as CUDA names them."""
  visible = os.environ.get('CUDA_VISIBLE_DEVICES')
  if visible is not None:
    return [name for name in visible.split(',') if name]
  try:
    listed = subprocess.run(['nvidia-smi', '--list-gpus'], capture_output=True, text=True)
  except FileNotFoundError:
    return []
  return [str(i) for i, line in enumerate(listed.stdout.splitlines()) if line.startswith('GPU ')]
