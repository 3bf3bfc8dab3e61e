"""SIGTERM and SIGINT: a run saves where it is, stops, and ends as if nothing had been."""

import gc
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments import preemption

ROOT = Path(__file__).parents[2]
SIGTERM, SIGINT = SIGNALS = preemption.SIGNALS
NUM_STEPS, EVALUATE_EVERY = 40, 20
COMMAND = [
  sys.executable,
  '-m',
  'experiments.run',
  '--config=configs/variants.py:diffusion_importance,tiny',
  f'--config.training.num_steps={NUM_STEPS}',
  '--config.training.steps_per_dispatch=2',
  f'--config.training.checkpoint_every={NUM_STEPS}',
  f'--config.evaluation.every={EVALUATE_EVERY}',
]


def tell(signum: int) -> None:
  os.kill(os.getpid(), signum)


def start(workdir: Path) -> subprocess.Popen:
  # What runs in the background of a shell is deaf to SIGINT, and so are its children.
  signal.signal(SIGINT, signal.default_int_handler)
  return subprocess.Popen(
    [*COMMAND, f'--workdir={workdir}'],
    cwd=ROOT,
    env={**os.environ, 'XLA_FLAGS': os.environ['QUICK_XLA_FLAGS']},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(workdir: Path) -> None:
  process = start(workdir)
  _, said = process.communicate(timeout=300)
  assert process.returncode == 0, said


def lines_of(workdir: Path) -> list[tuple[int, str]]:
  """The whole lines of metrics.jsonl, as (step, split)."""
  path = workdir / 'metrics.jsonl'
  text = path.read_text() if path.exists() else ''
  return [(v['step'], v['split']) for v in map(json.loads, text.rpartition('\n')[0].splitlines())]


def stop(workdir: Path, signum: int, is_reached: Callable) -> tuple[str, float]:
  """Starts the run, sends the signal when is_reached(lines of metrics.jsonl).

  Returns the line in which the run says that it stops, and how many seconds that took.
  """
  process = start(workdir)
  while not is_reached(lines_of(workdir)):
    assert process.poll() is None, process.communicate()[1]
    time.sleep(0.01)
  begin = time.monotonic()
  process.send_signal(signum)
  _, said = process.communicate(timeout=300)
  seconds = time.monotonic() - begin
  assert process.returncode == -signum, said
  assert 'Traceback' not in said
  (line,) = (line for line in said.splitlines() if line.startswith('stopped by'))
  assert line.startswith(f'stopped by {signal.Signals(signum).name}')
  assert line.endswith('; the same command goes on')
  return line, seconds


def step_in(line: str) -> int:
  """The step after which a run says that it has stopped."""
  return int(re.fullmatch(rf'.* after step (\d+) of {NUM_STEPS}, where it is saved; .*', line)[1])


def test_told_to_stop_again_and_again_a_run_ends_as_if_nothing_had_been(tmp_path):
  reference, workdir = tmp_path / 'reference', tmp_path / 'w'
  finish(reference)

  def is_compiling(_):
    is_open = (workdir / 'tensorboard').exists() and any((workdir / 'tensorboard').iterdir())
    time.sleep(0.2)
    return is_open

  # Compiling takes what it takes.
  assert step_in(stop(workdir, SIGTERM, is_compiling)[0]) == 2
  line, seconds = stop(workdir, SIGTERM, lambda lines: lines and lines[-1][0] > 2)
  assert seconds < 10
  assert step_in(line) > 2
  assert (workdir / 'checkpoints' / str(step_in(line))).is_dir()
  assert lines_of(workdir)[-1] == (step_in(line), 'train')

  line, seconds = stop(workdir, SIGINT, lambda lines: (EVALUATE_EVERY, 'train') in lines)
  assert seconds < 10
  assert step_in(line) == EVALUATE_EVERY
  assert lines_of(workdir)[-1] == (EVALUATE_EVERY, 'train')  # its evaluation is still to come

  _, seconds = stop(workdir, SIGTERM, lambda lines: (NUM_STEPS, 'train') in lines)
  assert seconds < 10
  assert not (workdir / 'results.json').exists()
  _, seconds = stop(workdir, SIGINT, lambda lines: (workdir / 'results.json').exists())
  assert seconds < 10
  assert not (workdir / 'samples.png').exists()

  finish(workdir)
  assert (EVALUATE_EVERY, 'test') in lines_of(workdir)
  for name in ('metrics.jsonl', 'samples.png', f'checkpoints/{NUM_STEPS}/contents/metadata'):
    assert (workdir / name).read_bytes() == (reference / name).read_bytes()
  ours, theirs = (json.loads((w / 'results.json').read_text()) for w in (workdir, reference))
  assert ours | {'cost': None} == theirs | {'cost': None}


def test_a_second_interrupt_ends_the_process_at_once():
  code = """
import os, signal
from experiments import preemption
with preemption.Guard() as guard, guard.deferred():
  os.kill(os.getpid(), signal.SIGINT)
  print('still here', flush=True)
  os.kill(os.getpid(), signal.SIGINT)
  print('never here', flush=True)
"""
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
  assert (done.returncode, done.stdout, done.stderr) == (-SIGINT, 'still here\n', '')


@pytest.mark.parametrize('signum', SIGNALS)
def test_a_signal_raises_at_once(signum):
  before = signal.getsignal(signum)
  with preemption.Guard(), pytest.raises(preemption.Stopped) as stopped:
    tell(signum)
  assert stopped.value.signum == signum
  assert signal.getsignal(signum) is before


@pytest.mark.parametrize('signum', SIGNALS)
def test_a_deferred_signal_waits_until_it_is_asked_for(signum):
  def work(guard):
    with guard.deferred():
      assert not guard.is_requested(0)
      tell(signum)
      tell(SIGTERM)
      assert guard.is_requested(1)
      guard.stop('after step 3')

  with preemption.Guard() as guard, pytest.raises(preemption.Stopped, match='step 3') as stopped:
    work(guard)
  assert stopped.value.signum == signum


def test_a_deferred_signal_is_not_lost_where_nobody_asks():
  done = []

  def work(guard):
    with guard.deferred():
      tell(SIGTERM)
      done.append('the block')
    done.append('what follows')

  with preemption.Guard() as guard, pytest.raises(preemption.Stopped):
    work(guard)
  assert done == ['the block']


def test_inside_a_deferred_block_there_may_be_one_that_is_not():
  done = []

  def work(guard):
    with guard.deferred(False):
      done.append('a block')
      tell(SIGTERM)
      done.append('after the signal')

  def work_twice(guard):
    with guard.deferred():
      for _ in range(2):
        with pytest.raises(preemption.Stopped):
          work(guard)
      done.append('the block around it')

  with preemption.Guard() as guard, pytest.raises(preemption.Stopped):
    work_twice(guard)
  assert done == ['a block', 'the block around it']


def test_a_signal_where_python_can_raise_nothing_is_raised_later():
  def collected(phase, info):
    gc.callbacks.remove(collected)
    tell(SIGTERM)

  def work():
    gc.collect()
    time.sleep(10)

  gc.callbacks.append(collected)
  with preemption.Guard(), pytest.raises(preemption.Stopped):
    work()


def test_outside_the_main_thread_a_guard_does_nothing():
  before, requested = signal.getsignal(SIGTERM), []

  def work():
    with preemption.Guard() as guard, guard.deferred():
      requested.append(guard.is_requested(0))
      requested.append(signal.getsignal(SIGTERM) is before)

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert requested == [False, True]
