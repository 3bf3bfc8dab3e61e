"""Several seeds in one program: each is what it is in a run of its own."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from configs import digits_classifier, digits_vae, variants
from experiments import build, schema, stages, table
from experiments.tools import Tools
from vaediff import data, parallel
from vaediff.errors import InputError, RunError

# Sums in the products of matrices are added in another order where there are many of them.
TOLERANCE = 1e-5


def tiny_vae(**fields) -> dict:
  return digits_vae.get_config('tiny').to_dict() | fields


def results_of(workdir) -> dict:
  return json.loads((workdir / 'results.json').read_text())


def lines_of(workdir, **wanted) -> list[dict]:
  lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  return [line for line in lines if wanted.items() <= line.items()]


@pytest.fixture(scope='module', autouse=True)
def _two_devices_and_a_cache(tmp_path_factory):
  """Programs that several runs have in common are compiled once."""
  options = {
    'jax_compilation_cache_dir': str(tmp_path_factory.mktemp('cache')),
    'jax_persistent_cache_min_compile_time_secs': 0.0,
  }
  before = {name: getattr(jax.config, name) for name in options}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(parallel, 'all_devices', lambda: jax.devices()[:2])
    for name, value in options.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.fixture(scope='module')
def both(tmp_path_factory):
  """The workdir of seeds 1 and 2 together, and that of seed 2 by itself."""
  folder = tmp_path_factory.mktemp('seeds')
  stages.run(tiny_vae(seed=1, seeds=2), folder / 'together', 'train')
  stages.run(tiny_vae(seed=2), folder / 'alone', 'train')
  return folder / 'together', folder / 'alone'


def test_each_seed_leaves_what_its_own_run_leaves(both):
  together, alone = both
  result, own = results_of(together), results_of(alone)
  assert 'seeds' not in own
  assert [entry['seed'] for entry in result['seeds']] == [1, 2]
  for name, metric in own['metrics'].items():
    values = [entry['metrics'][name] for entry in result['seeds']]
    # A moment of few codes is a difference of large numbers.
    tolerance = 30 * TOLERANCE if name == 'moment_kl' else TOLERANCE
    assert values[1]['value'] == pytest.approx(metric['value'], rel=tolerance)
    assert values[1]['stderr'] == pytest.approx(metric['stderr'], rel=tolerance)
    first, second = (value['value'] for value in values)
    assert result['metrics'][name]['value'] == pytest.approx((first + second) / 2)
    assert result['metrics'][name]['stderr'] == pytest.approx(abs(first - second) / 2)
    assert result['metrics'][name]['unit'] == metric['unit']
  assert result['cost']['num_params'] == own['cost']['num_params']
  assert result['metrics']['nll_bound']['stderr'] > 0
  expected = lines_of(alone)
  found = lines_of(together, seed=2)
  assert len(expected) == len(found) == 4
  for mine, theirs in zip(found, expected, strict=True):
    assert mine == pytest.approx(theirs | {'seed': 2}, rel=TOLERANCE)
  with np.load(together / 'samples.npz') as mine, np.load(alone / 'samples.npz') as theirs:
    assert mine['samples'].shape == (32, 8, 8, 1)
    difference = mine['samples'][mine['seed'] == 2] != theirs['samples']
    assert difference.mean() < 0.01  # a value in the middle of two levels may go either way
    assert np.any(mine['samples'][mine['seed'] == 1] != theirs['samples'])


def test_the_table_counts_the_seeds(both):
  together, alone = both
  *_, mean, single = table.table([together, alone]).splitlines()
  bound = results_of(together)['metrics']['nll_bound']
  assert f'| vae, 2 seeds | digits, test | 297 | 20 | {bound["value"]:.3f} +- ' in mean
  assert '| vae | digits, test ' in single


def test_the_modes_know_several_seeds(both, tmp_path, capsys):
  workdir = tmp_path / 'w'
  shutil.copytree(both[0], workdir)
  config = tiny_vae(seed=1, seeds=2)
  stages.run(config, workdir, 'verify')
  said = capsys.readouterr().out
  assert 'seed 2 nll_bound ' in said
  assert said.splitlines()[-1].startswith('all ')
  (workdir / 'results.json').unlink()
  stages.run(config, workdir, 'evaluate')
  assert results_of(workdir)['seeds'] == results_of(both[0])['seeds']


def test_what_is_fitted_after_training_is_fitted_for_each_seed():
  config = variants.get_config('autoencoder_mixture,tiny').to_dict() | {'seeds': 2}
  together = Tools(build.build(config), config, None, jax.devices()[:2])
  alone = together.of_seed(1)
  found = []
  for tools in (together, alone):
    state = parallel.replicate(tools.initial_state(), tools.devices)
    found.append((tools.draw(tools.final_variables(state), 16), tools.initial_state()))
  (mine, both_states), (theirs, state) = found
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b), both_states, state)
  assert (len(mine), len(theirs)) == (2, 1)
  assert np.mean(mine[1] != theirs[0]) < 0.01
  assert np.mean(mine[0] != theirs[0]) > 0.01


def failing_at(seed: int, step: int, config: dict):
  """An experiment whose loss is not finite in one step of one seed, known by its first example."""
  experiment = build.build(config)
  train, batch_size = experiment.dataset.train, config['training']['batch_size']
  (place,) = data.indices(seed, (step - 1) * batch_size, 1, len(train.x))

  def loss(variables, keys, batch, at):
    terms = experiment.method.loss(variables, keys, batch, at)
    is_same = jnp.all(batch.x == train.x[place], axis=(1, 2, 3)) & (batch.index == 0)
    return terms | {'loss': jnp.where(is_same & (at == step - 1), jnp.nan, terms['loss'])}

  return experiment._replace(method=experiment.method._replace(loss=loss))


def test_a_seed_that_fails_stops_alone(both, tmp_path, monkeypatch, caplog, capsys):
  """Seed 2 of 1, 2, 3, in the first dispatch: it is in no mean, and the run ends by saying so."""
  config = tiny_vae(seed=1, seeds=3)
  monkeypatch.setattr(stages, 'build', lambda config: failing_at(2, 7, config))
  with pytest.raises(RunError, match=r'no mean: 2 \(step 7\)'):
    stages.run(config, tmp_path, 'train')
  assert 'seed 2 goes no further: step 7: loss is nan' in caplog.text
  first, failed, last = results_of(tmp_path)['seeds']
  assert failed == {'seed': 2, 'failed_at_step': 7}
  # The first is what it is beside a seed that does not fail.
  bound = first['metrics']['nll_bound']['value']
  expected = results_of(both[0])['seeds'][0]['metrics']['nll_bound']['value']
  assert bound == pytest.approx(expected, rel=TOLERANCE)
  mean = results_of(tmp_path)['metrics']['nll_bound']['value']
  assert mean == pytest.approx((bound + last['metrics']['nll_bound']['value']) / 2)
  assert not lines_of(tmp_path, seed=2)
  with np.load(tmp_path / 'samples.npz') as file:
    assert set(file['seed']) == {1, 3}
  # Its step can be done again, and to start again does not hide it.
  capsys.readouterr()
  stages.run(config, tmp_path, 'replay')
  assert 'the same as it was, bit for bit' in capsys.readouterr().out
  with pytest.raises(RunError, match=r'no mean: 2 \(step 7\)'):
    stages.run(config, tmp_path, 'train')
  # Nor does going on from a checkpoint behind it, which ends with the same bits.
  before, lines = results_of(tmp_path)['seeds'], (tmp_path / 'metrics.jsonl').read_bytes()
  shutil.rmtree(tmp_path / 'checkpoints' / '20')
  (tmp_path / 'results.json').unlink()
  with pytest.raises(RunError, match=r'no mean: 2 \(step 7\)'):
    stages.run(config, tmp_path, 'train')
  assert results_of(tmp_path)['seeds'] == before
  assert (tmp_path / 'metrics.jsonl').read_bytes() == lines


def test_seeds_are_32_bit_numbers():
  schema.check(tiny_vae(seed=2**32 - 8, seeds=8))
  with pytest.raises(InputError, match='seeds is 9'):
    schema.check(tiny_vae(seed=2**32 - 8, seeds=9))


def test_a_classifier_of_several_seeds_is_no_judge(tmp_path):
  config = digits_classifier.get_config('tiny').to_dict() | {'seeds': 2}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  judged = tiny_vae()
  judged['quality']['classifier'] = str(tmp_path)
  with pytest.raises(InputError, match="'seeds': 2"):
    stages.run(judged, tmp_path / 'judged', 'train')
