"""The local engine: how many trials run at a time, on what, and what becomes of those that fail."""

import json
import os
import signal
import sys
import time

import pytest

from experiments import local_engine, trials
from experiments.trials import Trial
from vaediff.errors import InputError

# Stands for experiments.trial: writes down what it got, waits, and ends as its config says; where
# that is a list, one after the other, start by start.
PROGRAM = """
import json, os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1].partition('=')[2])
config = json.loads((folder / 'config.json').read_text())
names = ('CUDA_VISIBLE_DEVICES', 'NPROC', 'JAX_PLATFORMS')
(folder / 'pid').write_text(str(os.getpid()))
(folder / 'environment.json').write_text(json.dumps({n: os.environ.get(n) for n in names}))
with (folder / 'starts').open('a') as file:
  file.write('x')
begin = time.monotonic()
time.sleep(config['seconds'])
(folder / 'times.json').write_text(json.dumps([begin, time.monotonic()]))
ends = config['ends']
end = ends[min((folder / 'starts').stat().st_size, len(ends)) - 1]
print(f'error: it ends with {end}', file=sys.stderr)
if end < 0:
  os.kill(os.getpid(), -end)
sys.exit(end)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
  """run({name: ends}, num_workers=.., seconds=.., **resources) -> what the engine reports."""
  program = tmp_path / 'program.py'
  program.write_text(PROGRAM)
  monkeypatch.setattr(local_engine, 'COMMAND', (sys.executable, str(program)))
  monkeypatch.setattr(os, 'cpu_count', lambda: 8)

  def run(ends, num_workers=None, seconds=0.0, report=None, **resources):
    made, reported = [], []
    for name, statuses in ends.items():
      (tmp_path / name).mkdir()
      config = {'seconds': seconds, 'ends': statuses}
      (tmp_path / name / 'config.json').write_text(json.dumps(config))
      made.append(Trial(name, {}, config))
    report = report or (lambda *event: reported.append(event))
    local_engine.run(made, trials.check_resources(resources), tmp_path, num_workers, report)
    return reported

  return run


def read(folder, name: str):
  return json.loads((folder / name).read_text())


def test_each_trial_is_reported_and_one_that_fails_leaves_the_others_alone(run):
  reported = run({'a': [0], 'b': [1], 'c': [0], 'd': [2]}, num_workers=1)
  assert reported == [
    ('running', 'a', ''),
    ('done', 'a', ''),
    ('running', 'b', ''),
    ('failed', 'b', 'status 1: it ends with 1'),
    ('running', 'c', ''),
    ('done', 'c', ''),
    ('running', 'd', ''),
    ('failed', 'd', 'status 2: it ends with 2'),
  ]


def test_what_is_killed_is_started_again_and_what_fails_is_not(run, tmp_path):
  kill = -signal.SIGKILL
  reported = run({'a': [kill, kill, 0], 'b': [kill], 'c': [1, 0]})
  ended = {name: (state, text) for state, name, text in reported if state != 'running'}
  assert ended == {
    'a': ('done', ''),
    'b': ('failed', 'killed by signal 9, 4 times'),
    'c': ('failed', 'status 1: it ends with 1'),
  }
  starts = {name: len((tmp_path / name / 'starts').read_text()) for name in 'abc'}
  assert starts == {'a': 3, 'b': local_engine.NUM_RETRIES + 1, 'c': 1}


@pytest.mark.parametrize('num_workers', [1, 2, 3])
def test_as_many_run_at_a_time_as_there_are_workers(run, tmp_path, num_workers):
  run({name: [0] for name in 'abcd'}, num_workers=num_workers, seconds=0.2)
  times = [read(tmp_path / name, 'times.json') for name in 'abcd']
  at_a_time = max(sum(begin <= t < end for begin, end in times) for t, _ in times)
  assert at_a_time <= num_workers
  if num_workers == 1:
    assert at_a_time == 1


def test_no_two_trials_share_a_gpu_at_a_time(run, tmp_path, monkeypatch):
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,5,7,8,9')
  run({name: [0] for name in 'abcd'}, seconds=0.2, gpus=2)
  given = {read(tmp_path / name, 'environment.json')['CUDA_VISIBLE_DEVICES'] for name in 'abcd'}
  assert given == {'3,5', '7,8'}


def test_a_trial_has_its_threads_whatever_the_machine_has(run, tmp_path):
  run({'a': [0]}, cpus=3)
  environment = read(tmp_path / 'a', 'environment.json')
  assert (environment['NPROC'], environment['JAX_PLATFORMS']) == ('3', 'cpu')


@pytest.mark.parametrize(
  ('num_workers', 'resources', 'message'),
  [
    (9, {}, '--workers=9 with 1 cpus for each trial'),
    (None, {'cpus': 9}, 'room for 0'),
    (5, {'cpus': 2}, 'room for 4'),
    (None, {'gpus': 3}, 'with 3 gpus for each trial'),
    (2, {'tpus': 4}, 'room for 1'),
    (None, {'hosts': 2}, '--engine=ray'),
  ],
)
def test_more_than_there_is_is_refused(run, monkeypatch, num_workers, resources, message):
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0,1')
  with pytest.raises(InputError, match=message):
    run({'a': [0]}, num_workers=num_workers, **resources)


def test_whatever_is_raised_the_trials_are_stopped_first(run, tmp_path):
  def report(state, name, text):
    if name == 'b':
      while not all((tmp_path / other / 'starts').exists() for other in 'ab'):
        time.sleep(0.01)
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    run({'a': [0], 'b': [0]}, num_workers=2, seconds=60.0, report=report)
  assert not list(tmp_path.glob('*/times.json'))
  for name in 'ab':
    with pytest.raises(ProcessLookupError):
      os.kill(int((tmp_path / name / 'pid').read_text()), 0)
