"""The program: its files, its modes, resumption, devices, and one line for every wrong input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
TINY = '--config=configs/digits_vae.py:tiny'


def run(*arguments, num_devices=1, **environment):
  """Runs the program in a process of its own; returns it, finished."""
  flags = f'--xla_force_host_platform_device_count={num_devices}'
  return subprocess.run(
    [sys.executable, '-m', 'experiments.run', *map(str, arguments)],
    cwd=ROOT,
    env={**os.environ, 'XLA_FLAGS': flags, **environment},
    capture_output=True,
    text=True,
    timeout=300,
  )


def succeed(*arguments, **options):
  done = run(*arguments, **options)
  assert done.returncode == 0, done.stderr
  return done


def refuse(*arguments, **options):
  """The one line with which the program refuses its input."""
  done = run(*arguments, **options)
  assert done.returncode == 2, done.stderr
  assert 'Traceback' not in done.stderr
  (line,) = done.stderr.splitlines()
  assert line.startswith('error: ')
  return line


def results_of(workdir):
  return json.loads((workdir / 'results.json').read_text())


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run') / 'w'
  return workdir, succeed(TINY, f'--workdir={workdir}')


def test_a_run_leaves_the_files_of_the_contract(finished):
  workdir, done = finished
  config = json.loads((workdir / 'config.json').read_text())
  assert config['training']['num_steps'] == 20
  assert (workdir / 'checkpoints' / '20').is_dir()
  assert list((workdir / 'tensorboard').iterdir())
  lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  assert [(line['step'], line['split']) for line in lines] == [
    (10, 'train'),
    (10, 'test'),
    (20, 'train'),
    (20, 'test'),
  ]
  assert lines[-1]['nll_bound'] == results_of(workdir)['metrics']['nll_bound']['value']
  assert {'loss', 'kl', 'reconstruction', 'grad_norm'} < lines[0].keys()
  results = results_of(workdir)
  expected = {
    'method': 'vae',
    'dataset': 'digits',
    'split': 'test',
    'step': 20,
    'num_examples': 297,
  }
  assert expected.items() < results.items()
  for name, unit in (('nll_bound', 'nats'), ('bits_per_dim', 'bits/dim'), ('kl', 'nats')):
    assert results['metrics'][name]['unit'] == unit
    assert results['metrics'][name]['stderr'] > 0
  nats, bits = (results['metrics'][name]['value'] for name in ('nll_bound', 'bits_per_dim'))
  assert bits == pytest.approx(nats / (64 * np.log(2)))
  assert {'commit', 'config_sha256', 'jax', 'device'} == results['provenance'].keys()
  samples = np.load(workdir / 'samples.npz')['samples']
  assert (samples.shape, samples.dtype) == ((16, 8, 8, 1), np.uint8)
  assert samples.max() <= 16
  assert Image.open(workdir / 'samples.png').size == (136, 136)
  assert str(workdir / 'samples.png') in done.stdout


def test_a_finished_run_says_so_and_changes_nothing(finished):
  workdir, _ = finished
  before = {p: p.stat().st_mtime_ns for p in workdir.rglob('*') if p.is_file()}
  assert 'is finished' in succeed(TINY, f'--workdir={workdir}').stdout
  assert before == {p: p.stat().st_mtime_ns for p in workdir.rglob('*') if p.is_file()}


def test_evaluate_gives_the_same_numbers_again(finished):
  workdir, _ = finished
  before = json.loads((workdir / 'results.json').read_text())
  # Other batches on other devices, which may vary after training.
  arguments = ('--mode=evaluate', '--config.evaluation.batch_size=64')
  succeed(TINY, f'--workdir={workdir}', *arguments, num_devices=8)
  after = json.loads((workdir / 'results.json').read_text())
  for name, metric in before['metrics'].items():
    assert after['metrics'][name]['value'] == pytest.approx(metric['value'], rel=1e-5)
    assert after['metrics'][name]['stderr'] == pytest.approx(metric['stderr'], rel=1e-4)


def test_sample_draws_as_many_as_asked(finished, tmp_path):
  workdir, _ = finished
  succeed(TINY, f'--workdir={workdir}', '--mode=sample', '--num_samples=5')
  few = np.load(workdir / 'samples.npz')['samples']
  succeed(TINY, f'--workdir={workdir}', '--mode=sample', '--num_samples=16')
  many = np.load(workdir / 'samples.npz')['samples']
  assert (len(few), len(many)) == (5, 16)
  np.testing.assert_array_equal(few, many[:5])


def test_an_interrupted_run_ends_like_an_uninterrupted_one(finished, tmp_path):
  """Started again from its first checkpoint, the torn rest of its files notwithstanding."""
  import shutil

  workdir, _ = finished
  other = tmp_path / 'w'
  shutil.copytree(workdir, other)
  shutil.rmtree(other / 'checkpoints' / '20')
  for name in ('results.json', 'samples.npz', 'samples.png'):
    (other / name).unlink()
  with (other / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 20, "spl')
  succeed(TINY, f'--workdir={other}')
  assert (other / 'metrics.jsonl').read_bytes() == (workdir / 'metrics.jsonl').read_bytes()
  mine, theirs = (json.loads((w / 'results.json').read_text()) for w in (other, workdir))
  for name, metric in theirs['metrics'].items():
    assert mine['metrics'][name]['value'] == pytest.approx(metric['value'], rel=1e-5)


def test_eight_devices_train_like_one(finished, tmp_path):
  workdir, _ = finished
  succeed(TINY, f'--workdir={tmp_path}/w', num_devices=8)
  one, eight = (
    [json.loads(line) for line in (w / 'metrics.jsonl').read_text().splitlines()]
    for w in (workdir, tmp_path / 'w')
  )
  for a, b in zip(one, eight, strict=True):
    assert b['loss' if a['split'] == 'train' else 'nll_bound'] == pytest.approx(
      a['loss' if a['split'] == 'train' else 'nll_bound'], rel=1e-5
    )


def test_diffusion_runs_from_the_same_program(tmp_path):
  succeed(
    '--config=configs/digits_diffusion.py:tiny',
    f'--workdir={tmp_path}/w',
    '--config.sampling.trajectory=True',
    num_devices=2,
  )
  results = json.loads((tmp_path / 'w' / 'results.json').read_text())
  assert results['method'] == 'diffusion'
  assert results['protocol']['T'] == 20
  names = {'nll_bound', 'bits_per_dim', 'prior_kl', 'diffusion_kl', 'reconstruction'}
  assert results['metrics'].keys() == names
  samples = np.load(tmp_path / 'w' / 'samples.npz')['samples']
  assert (samples.shape, samples.dtype) == ((16, 8, 8, 1), np.uint8)
  with np.load(tmp_path / 'w' / 'trajectory.npz') as chains:
    assert chains['x'].shape == (16, 21, 8, 8, 1)
    levels = np.round((np.clip(chains['x'][:, -1], -1, 1) + 1) * 8)
  np.testing.assert_array_equal(levels, samples)
  assert Image.open(tmp_path / 'w' / 'trajectory.gif').n_frames > 2


def test_another_config_on_the_same_workdir_is_refused(finished):
  workdir, _ = finished
  line = refuse(TINY, f'--workdir={workdir}', '--config.optimizer.learning_rate=0.5')
  assert 'optimizer.learning_rate (there 0.001, here 0.5)' in line
  assert 'seed' not in line


WRONG = {
  'unknown key': (['--config.training.batchsize=3'], 'did you mean training.batch_size?'),
  'unknown section': (['--config.trainin.batch_size=3'], 'did you mean training.batch_size?'),
  'wrong type': (['--config.training.batch_size=many'], 'many'),
  'float for an integer': (['--config.training.batch_size=1.5'], '1.5'),
  'zero batch': (['--config.training.batch_size=0'], 'an integer of at least 1'),
  'negative rate': (['--config.optimizer.learning_rate=-1.0'], 'a finite number in (0, inf)'),
  'not a number': (['--config.optimizer.learning_rate=nan'], 'a finite number in (0, inf)'),
  'unknown dtype': (['--config.compute_dtype=float16'], 'one of float32, bfloat16'),
  'not a multiple': (['--config.training.num_steps=25'], '20 or 30'),
  'warm-up too long': (['--config.optimizer.warmup_steps=20'], 'below training.num_steps = 20'),
  'likelihood against data': (['--config.data.binarize=True'], 'for data of 2 levels'),
  'prior against posterior': (
    ['--config.method.prior=uniform', '--config.method.posterior=full'],
    'uniform does not go with method.posterior full',
  ),
  'objective against weight': (
    ['--config.method.objective=iwae', '--config.kl_weight.beta=2.0'],
    'has no KL term to weight',
  ),
  'unknown method': (['--config.method.name=gan'], "method.name is 'gan'; it is one of"),
  'unknown network': (['--config.encoder.name=rnn'], "encoder.name is 'rnn'"),
  'no classifier': (['--config.quality.classifier=none'], 'none/config.json cannot be read'),
  'unknown data set': (['--config.data.name=mnits'], "did you mean 'mnist'?"),
  'seed past 32 bits': (['--config.seed=4294967296'], 'below 4294967296'),
  'empty workdir': (['--workdir='], '--workdir is missing'),
  'unknown mode': (['--mode=fly'], "--mode is 'fly'"),
  'unknown flag': (['--nope=1'], 'nope'),
  'stray argument': (['train'], "unexpected argument 'train'"),
  'nothing to evaluate': (['--mode=evaluate'], 'holds no run to evaluate'),
  'nothing to sample': (['--mode=sample'], 'holds no run to sample'),
  'no samples': (['--num_samples=0'], 'sampling.num_samples is 0'),
}  # fmt: skip


@pytest.mark.parametrize('name', WRONG)
def test_wrong_input_is_answered_in_one_line(name, tmp_path):
  arguments, expected = WRONG[name]
  assert expected in refuse(TINY, f'--workdir={tmp_path}/w', *arguments)
  assert not (tmp_path / 'w').exists()


def test_a_missing_data_set(tmp_path):
  config = '--config=configs/mnist_vae.py:tiny'
  line = refuse(config, f'--workdir={tmp_path}/w', TFDS_DATA_DIR=str(tmp_path / 'none'))
  assert 'download_and_prepare' in line
  assert not (tmp_path / 'w').exists()


def test_wrong_diffusion_input(tmp_path):
  config = '--config=configs/digits_diffusion.py:tiny'
  for argument, expected in (
    ('--config.schedule.T=0', 'schedule.T is 0; it is an integer of at least 1'),
    ('--config.evaluation.num_times=20', 'at most schedule.T - 1 = 19'),
  ):
    assert expected in refuse(config, f'--workdir={tmp_path}/w', argument)


def test_a_batch_that_the_devices_do_not_divide(tmp_path):
  line = refuse(TINY, f'--workdir={tmp_path}/w', '--config.training.batch_size=100', num_devices=8)
  assert 'training.batch_size is 100; it is not divisible by 8 devices; use 96 or 104' in line


def test_missing_and_unreadable_flags(tmp_path):
  assert '--config is missing' in refuse(f'--workdir={tmp_path}/w')
  assert '--workdir is missing' in refuse(TINY)
  assert 'nowhere.py' in refuse('--config=nowhere.py', f'--workdir={tmp_path}/w')
  line = refuse('--config=configs/digits_vae.py:huge', f'--workdir={tmp_path}/w')
  assert "unknown variant 'huge'" in line


def test_config_files_that_give_no_config(tmp_path):
  for code, expected in (
    ('x = 1', 'get_config'),
    ('def get_config(): return 3', 'returns a ConfigDict'),
    ('def get_config(): raise SystemExit(0)', '0'),
  ):
    (tmp_path / 'c.py').write_text(code)
    assert expected in refuse(f'--config={tmp_path}/c.py', f'--workdir={tmp_path}/w')
  assert 'names no file' in refuse(f'--config={tmp_path}', f'--workdir={tmp_path}/w')


def test_help_is_not_an_error():
  assert '--workdir' in succeed('--help').stdout


def test_the_evaluated_split_is_part_of_the_run(finished):
  """Training on the test split's complement has seen the validation examples."""
  workdir, _ = finished
  arguments = ('--mode=evaluate', '--config.evaluation.split=validation')
  assert 'evaluation.split (there test' in refuse(TINY, f'--workdir={workdir}', *arguments)


def test_a_damaged_workdir_is_not_taken_for_another(tmp_path):
  (tmp_path / 'config.json').write_text('[1]')
  assert 'cannot be read' in refuse(TINY, f'--workdir={tmp_path}')


def test_an_unwritable_workdir(tmp_path):
  (tmp_path / 'file').write_text('')
  assert 'cannot be written' in refuse(TINY, f'--workdir={tmp_path}/file/w')
