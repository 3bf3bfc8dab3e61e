"""The program: its files, its modes, resumption, devices. Wrong input: see test_bad_input.py."""

import json

import numpy as np
import pytest
from PIL import Image

from vaediff import data

# In one process, which makes the finished run once.
pytestmark = pytest.mark.xdist_group('run')
TINY = '--config=configs/digits_vae.py:tiny'


def results_of(workdir):
  return json.loads((workdir / 'results.json').read_text())


@pytest.fixture(scope='module')
def finished(tmp_path_factory, succeed):
  workdir = tmp_path_factory.mktemp('run') / 'w'
  data.load('digits')  # prepared once, from scikit-learn's copy
  # The interpreter names on stderr what it imports.
  environment = {'is_forked': False, 'PYTHONPROFILEIMPORTTIME': '1'}
  return workdir, succeed(TINY, f'--workdir={workdir}', **environment)


def test_nothing_heavy_is_imported_that_a_run_does_not_use(finished):
  imported = {line.split('|')[-1].strip() for line in finished[1].stderr.splitlines()}
  assert {'jax', 'optax', 'vaediff.training'} <= imported
  heavy = {'tensorflow', 'sklearn', 'scipy.stats', 'matplotlib', 'pandas', 'ray', 'torchvision'}
  assert not heavy & imported


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
  assert {'commit', 'config_sha256', 'jax', 'device'} < results['provenance'].keys()
  assert results['provenance']['config'] == config
  samples = np.load(workdir / 'samples.npz')['samples']
  assert (samples.shape, samples.dtype) == ((16, 8, 8, 1), np.uint8)
  assert samples.max() <= 16
  assert Image.open(workdir / 'samples.png').size == (136, 136)
  assert str(workdir / 'samples.png') in done.stdout


def test_a_finished_run_says_so_and_changes_nothing(finished, succeed):
  workdir, _ = finished
  before = {p: p.stat().st_mtime_ns for p in workdir.rglob('*') if p.is_file()}
  assert 'is finished' in succeed(TINY, f'--workdir={workdir}').stdout
  assert before == {p: p.stat().st_mtime_ns for p in workdir.rglob('*') if p.is_file()}


def test_evaluate_gives_the_same_numbers_again(finished, succeed):
  workdir, _ = finished
  before = json.loads((workdir / 'results.json').read_text())
  # Other batches on other devices, which may vary after training.
  arguments = ('--mode=evaluate', '--config.evaluation.batch_size=64')
  succeed(TINY, f'--workdir={workdir}', *arguments, num_devices=8)
  after = json.loads((workdir / 'results.json').read_text())
  for name, metric in before['metrics'].items():
    assert after['metrics'][name]['value'] == pytest.approx(metric['value'], rel=1e-5)
    assert after['metrics'][name]['stderr'] == pytest.approx(metric['stderr'], rel=1e-4)


def test_what_float32_has_trained_can_be_evaluated_in_bfloat16(finished, tmp_path, succeed):
  import shutil

  workdir, _ = finished
  other = tmp_path / 'w'
  shutil.copytree(workdir, other)
  arguments = ('--mode=evaluate', '--config.compute_dtype=bfloat16')
  succeed(TINY, f'--workdir={other}', *arguments)
  before, after = (json.loads((folder / 'results.json').read_text()) for folder in (workdir, other))
  assert after['provenance']['config']['compute_dtype'] == 'bfloat16'
  before, after = (results['metrics']['nll_bound'] for results in (before, after))
  assert 0 < abs(after['value'] - before['value']) < before['stderr']


def test_sample_draws_as_many_as_asked(finished, tmp_path, succeed):
  workdir, _ = finished
  succeed(TINY, f'--workdir={workdir}', '--mode=sample', '--num_samples=5')
  few = np.load(workdir / 'samples.npz')['samples']
  succeed(TINY, f'--workdir={workdir}', '--mode=sample', '--num_samples=16')
  many = np.load(workdir / 'samples.npz')['samples']
  assert (len(few), len(many)) == (5, 16)
  np.testing.assert_array_equal(few, many[:5])


def test_an_interrupted_run_ends_like_an_uninterrupted_one(finished, tmp_path, succeed):
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


def test_a_run_without_an_average_of_the_parameters(tmp_path, succeed):
  arguments = TINY, f'--workdir={tmp_path / "w"}'
  succeed(*arguments, '--config.training.ema_decay=0')
  before = results_of(tmp_path / 'w')
  succeed(*arguments, '--config.training.ema_decay=0', '--mode=evaluate')
  assert results_of(tmp_path / 'w')['metrics'] == before['metrics']


def test_eight_devices_train_like_one(finished, tmp_path, succeed):
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


def test_diffusion_runs_from_the_same_program(tmp_path, succeed):
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


def test_another_config_on_the_same_workdir_is_refused(finished, refuse):
  workdir, _ = finished
  line = refuse(TINY, f'--workdir={workdir}', '--config.optimizer.learning_rate=0.5')
  assert 'optimizer.learning_rate (there 0.001, here 0.5)' in line
  assert 'seed' not in line


def test_help_is_not_an_error(succeed):
  assert '--workdir' in succeed('--help', is_forked=False).stdout


def test_the_evaluated_split_is_part_of_the_run(finished, refuse):
  """Training on the test split's complement has seen the validation examples."""
  workdir, _ = finished
  arguments = ('--mode=evaluate', '--config.evaluation.split=validation')
  assert 'evaluation.split (there test' in refuse(TINY, f'--workdir={workdir}', *arguments)
