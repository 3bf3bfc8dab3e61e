"""The sweep as a program: its trials are ordinary runs; it goes on, stops, and says what fails."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import plan, sweep, trials
from vaediff.checkpoints import Checkpoints

ROOT = Path(__file__).parents[2]
SWEEP = """
from configs import digits_vae

def get_sweep():
  config = digits_vae.get_config('tiny').unlock()
  config.training.num_steps = {num_steps}
  return {{
    'config': config,
    'grid': {{'optimizer.learning_rate': {rates}}},
    'seeds': (1,),
    'collect': ('metrics.nll_bound.value',),
  }}
"""


@pytest.fixture
def sweep_file(tmp_path):
  def write(rates, num_steps=20) -> str:
    path = tmp_path / 'sweep.py'
    path.write_text(SWEEP.format(rates=rates, num_steps=num_steps))
    return f'--sweep={path}'

  return write


def start(*arguments) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, '-m', 'experiments.sweep', *map(str, arguments)],
    cwd=ROOT,
    env=os.environ | {'XLA_FLAGS': os.environ['QUICK_XLA_FLAGS'], 'NPROC': '1'},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def test_trials_are_ordinary_runs_and_are_not_run_again(sweep_file, tmp_path, run, succeed):
  """One rate trains, at the other one the second step overflows."""
  folder = tmp_path / 'w'
  done = run(sweep_file((1e-3, 3.0)), f'--workdir={folder}', module='experiments.sweep')
  assert done.returncode == 1, done.stderr
  table = json.loads((folder / 'sweep.json').read_text())
  good, bad = table['settings']
  assert (good['setting'], good['num_done']) == ({'optimizer.learning_rate': 1e-3}, 1)
  assert (bad['setting'], bad['num_done']) == ({'optimizer.learning_rate': 3.0}, 0)
  failed = {n: t['error'] for n, t in table['trials'].items() if t['state'] == 'failed'}
  ((name, error),) = failed.items()
  assert 'status 1: step 2: ' in error
  assert f'failed: {folder}/trials/{name} (optimizer.learning_rate = 3): ' in done.stderr
  assert (folder / 'sweep.md').read_text() in done.stdout
  # The same bits as those of the run alone, on as many threads.
  (name,) = table['trials'].keys() - failed.keys()
  flags = '--config=configs/digits_vae.py:tiny', '--config.seed=1', f'--workdir={tmp_path}/alone'
  succeed(*flags, NPROC='1')
  for file in ('metrics.jsonl', 'config.json', 'samples.png'):
    ours, alone = folder / 'trials' / name / file, tmp_path / 'alone' / file
    assert ours.read_bytes() == alone.read_bytes()
  # Without the rate that fails: nothing is left to run.
  before = {p: p.stat().st_mtime_ns for p in (folder / 'trials').rglob('*')}
  arguments = sweep_file((1e-3,)), f'--workdir={folder}'
  succeed(*arguments, module='experiments.sweep')
  assert before == {p: p.stat().st_mtime_ns for p in (folder / 'trials').rglob('*')}
  (row,) = csv.DictReader((folder / 'sweep.csv').open())
  assert float(row['nll_bound']) == good['metrics']['metrics.nll_bound.value']['value']


@pytest.mark.parametrize('ends_with', [signal.SIGTERM, signal.SIGKILL])
def test_a_sweep_that_ends_has_its_trials_save(sweep_file, tmp_path, ends_with):
  """Told to, or killed: its trials are not left alone."""
  folder = tmp_path / 'w'
  process = start(sweep_file((1e-3,), 10**8), f'--workdir={folder}', '--workers=1')
  deadline = time.monotonic() + 120
  while not any(p.stat().st_size for p in folder.glob('trials/*/metrics.jsonl')):
    assert time.monotonic() < deadline
    assert process.poll() is None, process.communicate()
    time.sleep(0.05)
  process.send_signal(ends_with)
  _, said = process.communicate(timeout=120)
  assert process.returncode == -ends_with, said
  log = next(folder.glob('trials/*/log.txt'))
  while 'stopped by SIGTERM after step' not in log.read_text():
    assert ends_with == signal.SIGKILL
    assert time.monotonic() < deadline
    time.sleep(0.05)
  step = int(log.read_text().partition('after step ')[2].split()[0])
  with Checkpoints(log.parent / 'checkpoints', read_only=True) as saved:
    assert saved.steps()[0] == step
  lines = (log.parent / 'metrics.jsonl').read_text().splitlines()
  assert json.loads(lines[-1])['step'] >= step


def test_a_dry_run_tells_the_trials_and_what_they_cost_and_writes_nothing(tmp_path, succeed):
  """Of the pod sweep, whose data need not be there."""
  done = succeed(
    '--sweep=configs/sweeps/pod.py',
    f'--workdir={tmp_path}/w',
    '--dry_run',
    module='experiments.sweep',
    TFDS_DATA_DIR=str(tmp_path / 'no_data'),
  )
  lines = done.stdout.splitlines()
  assert len({line.split()[0] for line in lines[:256]}) == 256
  assert 'method.prediction = v, denoiser.widths = (24, 48, 96)' in lines[0]
  assert '256 trials' in lines[256]
  assert 'without those whose cost is unknown: data set mnist is not prepared' in lines[257]
  assert not (tmp_path / 'w').exists()


def test_the_forecast_is_the_plan_of_each_trial():
  """20 trials that differ in a weight and the seed: one program, on one TPU v4."""
  loaded = trials.load('configs/sweeps/beta.py')
  resources = loaded.resources | {'tpus': 1, 'accelerator': 'TPU-V4'}
  lines = sweep.forecast(loaded._replace(resources=resources), trials.expand(loaded))
  cost = plan.estimate(loaded.config, 'tpu_v4', 1)
  operations = cost.program.operations * loaded.config['training']['num_steps']
  assert all(f'{cost.program.num_params:,} parameters, {operations:.3g}' in s for s in lines[:20])
  assert lines[20:] == [
    f'20 trials, {20 * operations:.3g} floating point operations of training in all, '
    f'{20 * cost.hours:.3g} hours one after the other, each on 1 x tpu_v4'
  ]


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((), '--sweep is missing'),
    (('--sweep=configs/sweeps/beta.py',), '--workdir is missing'),
    (('--sweep=nowhere.py', '--workdir=w'), '--sweep=nowhere.py gives no sweep'),
    (('--sweep=configs/sweeps/beta.py', '--workdir=w', 'x'), "unexpected argument 'x'"),
    (('--sweep=configs/sweeps/beta.py', '--workdir=w', '--engine=slurm'), 'engine'),
    (('--sweep=configs/sweeps/beta.py', '--workdir=w', '--resources=gpu=1'), 'did you mean gpus'),
    (('--sweep=configs/sweeps/beta.py', '--workdir=w', '--early_stopping'), '--engine=ray'),
    (('--sweep=configs/sweeps/beta.py', '--workdir=/dev/null/w'), 'cannot be written'),
  ],
)
def test_a_wrong_command_line_is_refused(arguments, message, refuse):
  assert message in refuse(*arguments, module='experiments.sweep')
