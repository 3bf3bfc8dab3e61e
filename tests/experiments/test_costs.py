"""The cost of a training, before it is run."""

import itertools

import pytest

from configs import digits_vae
from experiments import costs


def test_a_step_of_a_perceptron_costs_six_operations_for_each_weight_and_example():
  """Two for the product forward, four backward; noise, likelihood and Adam come on top."""
  config = digits_vae.get_config().to_dict()
  cost = costs.estimate(config)
  widths = 64, *config['encoder']['widths'], 2 * config['method']['latent_dim']
  back = config['method']['latent_dim'], *config['decoder']['widths'], 2 * 64
  pairs = [*itertools.pairwise(widths), *itertools.pairwise(back)]
  weights = sum(a * b for a, b in pairs)
  assert cost.num_params == weights + sum(b for _, b in pairs)
  products = 6 * weights * config['training']['batch_size'] * config['training']['num_steps']
  # The gradient by the pictures themselves, 2 x 64 x 400 of each example, is not needed.
  assert 0.8 * products < cost.flops < 1.3 * products
  config['training']['num_steps'] *= 3
  assert costs.estimate(config).flops == pytest.approx(3 * cost.flops)
