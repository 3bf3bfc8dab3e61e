"""Published numbers beside ours: what the table takes from a run, and what it says of an order."""

import json

import numpy as np
import pytest

from experiments import published


def test_a_number_is_that_of_its_run(tmp_path):
  metrics = {
    'nll_bound': {'value': 87.125, 'stderr': 0.25, 'unit': 'nats'},
    'active_units': {'value': 19.0, 'stderr': 0.0, 'unit': 'units'},
  }
  (tmp_path / 'burda_vae_1').mkdir()
  (tmp_path / 'burda_vae_1' / 'results.json').write_text(json.dumps({'metrics': metrics}))
  compared = published.compare(tmp_path, {})
  (entry,) = compared['numbers']  # the other runs are not there
  assert (entry['published'], entry['ours'], entry['stderr']) == (86.76, 87.125, 0.25)
  text = published.markdown(compared)
  assert '| VAE, k = 1, one stochastic layer | 86.76 | 87.12 | 0.25 | nats | 19 |' in text


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


def test_every_number_has_its_run():
  assert {number.run for number in published.NUMBERS} == set(published.RUNS)
