"""A run that is loaded says and draws what the program that trained it has written."""

import json

import jax
import numpy as np
import pytest

from configs import digits_vae
from experiments import stages, trained
from vaediff.errors import InputError


def config_of(num_seeds: int) -> dict:
  config = digits_vae.get_config('tiny').unlock()
  config.seeds = num_seeds
  return config.to_dict()


@pytest.fixture(scope='module', params=[1, 2])
def folder(request, tmp_path_factory):
  """A run of one seed, and of two."""
  folder = tmp_path_factory.mktemp('run')
  stages.run(config_of(request.param), folder, 'train')
  return folder


@pytest.fixture(scope='module')
def run(folder):
  return trained.load(folder)


def test_it_draws_the_samples_of_the_run(run, folder):
  with np.load(folder / 'samples.npz') as written:
    num = len(written['samples']) // len(run.tools.seeds)
    np.testing.assert_array_equal(np.concatenate(run.draw(num)), written['samples'])


def test_it_has_the_numbers_of_the_run(run):
  scores = run.scores()
  assert {'nll_bound', 'bits_per_dim', 'kl', 'reconstruction'} == scores.keys()
  for name, values in scores.items():
    np.testing.assert_array_equal(values, run.metric(name))
  assert len(scores['nll_bound']) == len(run.tools.seeds)


def test_it_has_the_curves_of_the_run(run, folder):
  lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
  of_test = [line for line in lines if line['split'] == 'test']
  curves = run.curves(['nll_bound'])
  assert curves['step'].tolist() == sorted({line['step'] for line in of_test})
  assert sorted(curves['nll_bound'].reshape(-1)) == sorted(line['nll_bound'] for line in of_test)
  np.testing.assert_array_equal(curves['nll_bound'][:, -1], run.metric('nll_bound'))


def test_functions_of_the_method_go_over_the_test_split(run):
  method = run.tools.method
  bounds = run.over_test(lambda *arguments: method.log_likelihood_bound(*arguments)['elbo'])
  means = [-np.mean(bound, dtype=np.float64) for bound in bounds]
  np.testing.assert_allclose(means, run.scores()['nll_bound'], rtol=1e-6)
  assert [z.shape for z in run.code_means()] == [(297, method.code.dim)] * len(run.tools.seeds)


def test_another_config_keeps_the_parameters(run):
  codes = run.changed(sampler={'codes': 'normal'})
  same = jax.tree.map(np.array_equal, codes.variables.params, run.variables.params)
  assert all(jax.tree.leaves(same))
  assert jax.tree.leaves(codes.variables.fitted)
  assert not np.array_equal(codes.draw(8)[0], run.draw(8)[0])


def test_what_holds_no_run_is_refused(tmp_path):
  with pytest.raises(InputError, match=r'config\.json cannot be read'):
    trained.load(tmp_path)
  (tmp_path / 'config.json').write_text(json.dumps(config_of(1)))
  with pytest.raises(InputError, match='holds no checkpoint'):
    trained.load(tmp_path)
