"""Published numbers beside ours: what the table takes from a run, and what it says of an order."""

import json

import numpy as np
import pytest

from configs import burda
from experiments import published, workdir


def test_a_number_is_that_of_its_run(tmp_path):
  write_results(tmp_path, 'burda_vae_1', burda.get_config('vae_1').to_dict())
  compared = published.compare(tmp_path, {})
  (entry,) = compared['numbers']  # the other runs are not there
  assert (entry['published'], entry['ours'], entry['stderr']) == (86.76, 87.125, 0.25)
  text = published.markdown(compared)
  assert (
    '| VAE, k = 1, one stochastic layer | 86.76 | 87.12 | 0.25 | nats | 19 | 18 | a GPU, abc | 500 '
    in text
  )


def test_a_run_of_another_config_stands_for_nothing(tmp_path):
  write_results(tmp_path, 'burda_vae_1', burda.get_config('vae_1,tiny').to_dict())
  assert published.compare(tmp_path, {})['numbers'] == []


def write_results(folder, name, config):
  """As a finished run leaves them."""
  metrics = {
    'nll_bound': {'value': 87.125, 'stderr': 0.25, 'unit': 'nats'},
    'active_units': {'value': 18.0, 'stderr': 0.0, 'unit': 'units'},
  }
  provenance = {
    'config': config,
    'config_sha256': workdir.config_hash(config),
    'device': 'a GPU',
    'commit': 'abc',
  }
  results = {'metrics': metrics, 'step': config['training']['num_steps'], 'provenance': provenance}
  path = workdir.named(folder, name, config)
  path.mkdir()
  (path / 'results.json').write_text(json.dumps(results))


@pytest.mark.parametrize(('mixture', 'verdict'), [(1.0, 'supported'), (9.0, 'depends')])
def test_an_order_is_judged_by_the_seeds(mixture, verdict, tmp_path):
  noise = np.array([-0.1, 0.0, 0.1])
  arrays = {
    'frechet_normal': 3 + noise,
    'frechet_vae': 2 + noise,
    'frechet_mixture': mixture + 0 * noise,
  }
  (order,) = published.compare(tmp_path, {'f01_autoencoder': {'digits': arrays}})['orders']
  assert order['verdict'].startswith(verdict)
  assert [row['ours'] for row in order['rows']] == pytest.approx([3, 2, mixture])


def test_few_steps_of_both_samplers_are_compared(tmp_path):
  steps, noise = np.array([5, 10, 20, 50, 250]), np.array([[-0.1], [0.0], [0.1]])
  arrays = {f'calls_{label}': steps for label in ('DDIM', 'ancestral')}
  arrays |= {'frechet_DDIM': 50 / steps + noise, 'frechet_ancestral': 90 / steps + noise}
  (order,) = published.compare(tmp_path, {'f12_samplers': {'digits': arrays}})['orders']
  assert order['verdict'] == 'supported'
  assert {row['what']: row['ours'] for row in order['rows']} == pytest.approx(
    {
      f'eta = {eta}, {num} steps': top / num
      for num in (10, 20, 50)
      for eta, top in ((0, 50), (1, 90))
    }
  )


def test_runs_that_ask_for_an_accelerator_wait_for_one():
  assert set(published.runs(True)) == {number.run for number in published.NUMBERS}
  left = published.runs(True).keys() - published.runs(False).keys()
  assert left == set(published.ON_ACCELERATORS)
