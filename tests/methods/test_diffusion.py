"""What is special to diffusion: its variances, its losses, its parameterisations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaediff import bounds, forward_process, gaussian, likelihoods, schedules
from vaediff.methods.base import Batch, Variables
from vaediff.methods.diffusion import diffusion
from vaediff.networks import Network

SHAPE, K, T = (2, 2, 1), 17, 50
LOG_SNR = schedules.cosine(T)


def constant_x_0(value: float, prediction: str) -> Network:
  """A network whose output stands for the same x_0 at every x_t."""

  def apply(params, x_t, log_snr_t, label):
    del params, label
    x_0 = jnp.full_like(x_t, value)
    return {
      'eps': lambda: forward_process.eps_from_x_0(x_t, x_0, log_snr_t),
      'v': lambda: forward_process.v_from_x_0(x_t, x_0, log_snr_t),
      'x_0': lambda: x_0,
    }[prediction]()

  return Network(init=lambda key, *inputs: {}, apply=apply)


def batch(level: int, n: int = 64) -> Batch:
  x = np.full((n, *SHAPE), level, np.uint8)
  return Batch(x, np.full(n, -1, np.int32), np.arange(n, dtype=np.int32))


VARIABLES = Variables({'denoiser': {}})
KEYS = jax.random.split(jax.random.key(0), 64)


@pytest.mark.parametrize('prediction', ['eps', 'x_0', 'v'])
def test_a_network_that_knows_x_0_has_no_kl(prediction):
  """With the right x_0 and the posterior's variance every KL term is 0, in any parameterisation."""
  method = diffusion(
    constant_x_0(0.5, prediction), LOG_SNR, SHAPE, K, prediction, 'fixed_small', clip_x_0=False
  )
  terms = method.log_likelihood_bound(VARIABLES, KEYS, batch(12))
  assert likelihoods.center(12, K) == 0.5
  np.testing.assert_allclose(terms['diffusion_kl'], 0, atol=1e-4)


def test_a_wrong_x_0_costs_its_distance_in_signal_to_noise():
  """sum_t KL = 1/2 (SNR(1) - SNR(T)) |x_0 - x_0_hat|^2 (Kingma et al. 2021, eq. 13)."""
  method = diffusion(constant_x_0(0.25, 'x_0'), LOG_SNR, SHAPE, K, 'x_0', 'fixed_small')
  terms = method.log_likelihood_bound(VARIABLES, KEYS, batch(12))
  snr = np.exp(LOG_SNR)
  exact = 0.5 * (snr[1] - snr[T]) * 4 * 0.25**2
  np.testing.assert_allclose(terms['diffusion_kl'], exact, rtol=1e-4)


@pytest.mark.parametrize('prediction', ['eps', 'x_0', 'v'])
def test_bound_loss_is_an_unbiased_estimate_of_the_negative_bound(prediction):
  """16,384 draws within 5 standard errors: false alarm rate 6e-7 each."""
  method = diffusion(
    constant_x_0(0.25, prediction),
    LOG_SNR,
    SHAPE,
    K,
    prediction,
    'fixed_large',
    'bound',
    clip_x_0=False,
  )
  n = 2**14
  keys = jax.random.split(jax.random.key(1), n)
  loss = np.asarray(jax.jit(method.loss)(VARIABLES, keys, batch(12, n), 0)['loss'])
  exact = -np.mean(method.log_likelihood_bound(VARIABLES, KEYS, batch(12))['elbo'])
  assert abs(loss.mean() - exact) < 5 * loss.std() / np.sqrt(n) + 1e-3 * exact


@pytest.mark.parametrize('prediction', ['eps', 'x_0', 'v'])
def test_simple_loss_is_the_squared_error_per_dimension(prediction):
  """A constant output c against x_0 = 0.5: (c - x_0)^2; against eps: 1 + c^2 on average; against
  v = a eps - s x_0: E[a^2 + (c + s x_0)^2] over t. Within 5 standard errors: false alarm rate 1e-6.
  """
  n, c, x_0 = 2**14, 0.25, 0.5
  network = Network(lambda key, *inputs: {}, lambda params, x_t, log_snr, label: 0 * x_t + c)
  method = diffusion(network, LOG_SNR, SHAPE, K, prediction, loss='simple')
  keys = jax.random.split(jax.random.key(2), n)
  loss = np.asarray(method.loss(VARIABLES, keys, batch(12, n), 0)['loss'])
  a2 = 1 / (1 + np.exp(-LOG_SNR[1:]))
  exact = {
    'x_0': (c - x_0) ** 2,
    'eps': 1 + c**2,
    'v': np.mean(a2 + (c + np.sqrt(1 - a2) * x_0) ** 2),
  }[prediction]
  assert abs(loss.mean() - exact) < 5 * loss.std() / np.sqrt(n) + 1e-6


def test_clipping_changes_nothing_inside_and_helps_outside():
  for value, changes in ((0.5, False), (1.5, True)):
    elbo = {}
    for clip in (False, True):
      method = diffusion(
        constant_x_0(value, 'x_0'), LOG_SNR, SHAPE, K, 'x_0', 'fixed_small', clip_x_0=clip
      )
      elbo[clip] = method.log_likelihood_bound(VARIABLES, KEYS, batch(14))['elbo']
    if changes:
      assert np.all(elbo[True] > elbo[False])
    else:
      np.testing.assert_array_equal(elbo[True], elbo[False])


def test_samples_of_a_network_that_knows_x_0_are_that_level():
  method = diffusion(constant_x_0(0.5, 'v'), LOG_SNR, SHAPE, K, 'v', 'fixed_small')
  np.testing.assert_array_equal(method.sample(VARIABLES, KEYS, batch(0).label), 12)


@pytest.mark.parametrize(
  ('sampler', 'options'),
  [
    ('ancestral', {'noise_scale': 0.5}),
    ('ddim', {'eta': 0.5}),
    ('dpm_solver_pp_2m', {}),
    ('heun', {}),
  ],
)
def test_every_sampler_in_few_steps(sampler, options):
  method = diffusion(
    constant_x_0(0.5, 'x_0'),
    LOG_SNR,
    SHAPE,
    K,
    'x_0',
    sampler=sampler,
    num_sampling_steps=5,
    sampler_options=options,
  )
  np.testing.assert_array_equal(method.sample(VARIABLES, KEYS, batch(0).label), 12)


def test_nearest_level_decoder_needs_no_network():
  table = schedules.linear_log_snr(T)
  method = diffusion(constant_x_0(-1.0, 'x_0'), table, SHAPE, K, 'x_0', decoder='nearest_level')
  terms = method.log_likelihood_bound(VARIABLES, KEYS, batch(12))
  np.testing.assert_allclose(terms['reconstruction'], 0, atol=1e-6)


def test_unknown_choices_are_refused():
  for name in ('prediction', 'variance', 'loss', 'decoder', 'sampler'):
    with pytest.raises(ValueError, match=f"{name} is 'nonsense'; it is one of"):
      diffusion(constant_x_0(0.0, 'x_0'), LOG_SNR, SHAPE, K, **{name: 'nonsense'})


def test_the_prior_term_is_in_the_bound():
  table = schedules.linear_log_snr(T, first=5.0, last=1.0)  # a schedule that leaves much of x_0
  method = diffusion(constant_x_0(0.5, 'x_0'), table, SHAPE, K, 'x_0', 'fixed_small')
  terms = method.log_likelihood_bound(VARIABLES, KEYS, batch(12))
  x_0 = jnp.full((1, *SHAPE), 0.5)
  exact = gaussian.kl_to_standard_normal(forward_process.marginal(x_0, table[-1]))[0]
  assert exact > 1
  np.testing.assert_allclose(terms['prior_kl'], exact, rtol=1e-5)
  np.testing.assert_allclose(bounds.diffusion_prior_kl(x_0, table), exact, rtol=1e-6)
