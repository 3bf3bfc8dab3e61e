"""The likelihood by the probability-flow ODE against exact densities of Gaussian and mixture data.

With the optimal denoiser the ODE carries q(x_first) into q(x_last), so that at every x

    log |d x_last / d x| = log q_first(x) - log q_last(x_last)

and log p(x) differs from log q_first(x) by the prior's mismatch, log N(x_last; 0, I) - log q_last.
Statistical checks are within 5 standard errors: a false-alarm rate of 6e-7 for each number.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from vaediff import analytic, bounds, forward_process, gaussian, probability_flow, schedules
from vaediff.analytic import GaussianData, Mixture

FIRST, LAST = 8.0, -12.0
FULL = GaussianData(np.array([0.4, -0.8]), np.array([[0.9, 0.5], [0.5, 0.6]]))
# Variances far below and above that of the noise, and the event an image.
IMAGE = GaussianData(np.array([[0.4, -0.8, 3.0]]), np.array([[1e-3, 0.6, 30.0]]))
BUMPS = Mixture(
  np.array([0.3, 0.5, 0.2]),
  np.array([[1.0, 0.5], [-1.0, 0.2], [0.3, -1.5]]),
  np.array([[[0.2, 0.1], [0.1, 0.3]], [[0.4, 0.0], [0.0, 0.1]], [[0.1, -0.05], [-0.05, 0.2]]]),
)
ALL = pytest.mark.parametrize('data', [FULL, IMAGE, BUMPS], ids=['full', 'image', 'bumps'])


@pytest.fixture(autouse=True)
def _float64():
  jax.config.update('jax_enable_x64', True)
  yield
  jax.config.update('jax_enable_x64', False)


def log_density(data, x, log_snr):
  if isinstance(data, Mixture):
    return analytic.mixture_log_prob(data, x, log_snr)
  return gaussian.log_prob(analytic.gaussian_marginal(data, log_snr), x)


def denoiser(data):
  """The optimal one, in the dtype of x."""
  exact = analytic.mixture_denoiser if isinstance(data, Mixture) else analytic.gaussian_denoiser

  def predict_x_0(x, log_snr):
    return exact(jax.tree.map(lambda array: jnp.asarray(array, x.dtype), data), x, log_snr)

  return predict_x_0


def points(data, n=20):
  """Points of the data's own shape and spread, as x_t at FIRST."""
  shape = (n, 2) if data is BUMPS else (n, *data.mean.shape)
  eps = jnp.asarray(np.random.default_rng(0).normal(size=shape))
  return data.mean + np.sqrt(data.covariance) * eps if data is IMAGE else eps


def keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


def flow(data, x, num_steps, **options):
  """x_last and log |d x_last / d x|, compiled."""

  @jax.jit
  def transport(keys, x):
    return probability_flow.transport(keys, x, denoiser(data), FIRST, LAST, num_steps, **options)

  return transport(keys(len(x), options.get('num_probes', 0)), x)


@ALL
def test_volume_changes_as_the_density_does_to_fourth_order(data):
  x = points(data)

  def error(num_steps):
    x_last, log_det = flow(data, x, num_steps)
    return np.abs(log_det - (log_density(data, x, FIRST) - log_density(data, x_last, LAST))).max()

  coarse, fine = error(100), error(200)
  assert 3.5 < np.log2(coarse / fine) < 5
  assert fine < 1e-5


@pytest.mark.parametrize('data', [FULL, IMAGE], ids=['full', 'image'])
def test_the_solution_is_the_exact_flow_and_the_way_back_leads_back(data):
  x = points(data)
  x_last, log_det = flow(data, x, 200)
  exact = analytic.gaussian_probability_flow(data, x, FIRST, LAST)
  np.testing.assert_allclose(x_last, exact, atol=1e-6)
  back, log_det_back = probability_flow.transport(
    keys(len(x)), x_last, denoiser(data), LAST, FIRST, 200
  )
  np.testing.assert_allclose(back, x, atol=1e-5)
  np.testing.assert_allclose(log_det_back, -log_det, atol=1e-5)


@ALL
@pytest.mark.parametrize('dtype', [jnp.float64, jnp.float32])
def test_log_likelihood_is_exact(data, dtype):
  """In 40 steps to 1e-3 nats a dimension, from noise of a log-SNR of 8 to one of -16."""
  x = points(data)
  log_likelihood = jax.jit(
    lambda keys, x: probability_flow.log_likelihood(keys, x, denoiser(data), FIRST, -16.0, 40)
  )(keys(len(x)), x.astype(dtype))
  assert log_likelihood.dtype == dtype
  assert np.abs(log_likelihood - log_density(data, x, FIRST)).max() < 1e-3 * x[0].size


def test_it_is_the_prior_that_is_integrated_from():
  """Stopped at a log-SNR of 0, the density is that of the flow from N(0, I) there."""
  x = points(FULL)
  log_likelihood = probability_flow.log_likelihood(keys(20), x, denoiser(FULL), FIRST, 0.0, 100)
  x_last = analytic.gaussian_probability_flow(FULL, x, FIRST, 0.0)
  mismatch = gaussian.log_prob(gaussian.Normal(0 * x, 0 * x), x_last) - log_density(
    FULL, x_last, 0.0
  )
  assert np.abs(mismatch).min() > 1e-2
  np.testing.assert_allclose(log_likelihood, log_density(FULL, x, FIRST) + mismatch, atol=1e-6)


def test_hutchinson_is_exact_for_a_diagonal_derivative():
  """v J v sums the diagonal of J whatever the signs v, where there is nothing else in it."""
  x = points(IMAGE)
  np.testing.assert_allclose(
    flow(IMAGE, x, 10, divergence='hutchinson')[1], flow(IMAGE, x, 10)[1], rtol=1e-9
  )


def test_hutchinson_is_unbiased_and_probes_average():
  x = jnp.tile(points(BUMPS, 2), (1000, 1))
  exact = flow(BUMPS, x[:2], 20)[1]
  spreads = []
  for num_probes in (1, 4):
    _, log_det = flow(BUMPS, x, 20, divergence='hutchinson', num_probes=num_probes)
    error = np.asarray(log_det).reshape(1000, 2) - exact
    assert np.all(np.abs(error.mean(0)) < 5 * error.std(0) / np.sqrt(1000))
    spreads.append(error.std(0))
  # Signs in two dimensions have v_1 v_2 = +-1, so that the spread of one probe is all but exact,
  # and the square of its ratio to that of four within 5 standard errors of 4: 4 (1 +- 5 0.045).
  ratio = (spreads[0] / spreads[1]) ** 2
  assert np.all(spreads[0] > 1e-2)
  assert np.all((ratio > 3.1) & (ratio < 4.9))


@pytest.mark.parametrize('divergence', probability_flow.DIVERGENCES)
def test_an_example_depends_on_itself_and_its_key_alone(divergence):
  x, all_keys = points(BUMPS), keys(20)

  def log_likelihood(part):
    return probability_flow.log_likelihood(
      all_keys[part], x[part], denoiser(BUMPS), FIRST, LAST, 5, divergence
    )

  np.testing.assert_allclose(
    log_likelihood(slice(None))[3:7], log_likelihood(slice(3, 7)), rtol=1e-12
  )


def test_the_bound_of_the_chain_is_above_the_likelihood_of_the_flow():
  """On Gaussian data: E[-log p] of the flow is the entropy, the expected bound of T steps above it.

  The flow's density of x_0 is that of signal x_0 at a log-SNR of 16, times the Jacobian.
  """
  first, n = 16.0, 500
  x_0 = gaussian.sample(
    jax.random.key(0),
    jax.tree.map(lambda a: jnp.repeat(a, n, 0), analytic.gaussian_marginal(FULL, jnp.inf)),
  )
  signal = forward_process.signal_scale(first)
  nll = -jax.jit(
    lambda keys, x: probability_flow.log_likelihood(keys, x, denoiser(FULL), first, -16.0, 40)
  )(keys(n), signal * x_0) - 2 * jnp.log(signal)
  # Against the exact NLL of the same draws: no sampling error.
  np.testing.assert_allclose(nll, -log_density(FULL, x_0, jnp.inf), atol=2e-3)
  expected_bound = jax.jit(analytic.gaussian_expected_bound)
  entropy = float(gaussian.entropy(analytic.gaussian_marginal(FULL, jnp.inf))[0])
  for T, gap in ((10, 1.0), (1000, 1e-2)):
    table = schedules.cosine(T)
    log_var = forward_process.transition_log_var(table[:-1], table[1:])
    bound = -float(expected_bound(FULL, table, log_var)['elbo'])
    assert 0 < bound - entropy < gap


LEVELS = 5
NOISY = 1.0  # a log-SNR at which the signal's scale, 0.86, matters
PLANE = GaussianData(np.array([-0.2, 0.3]), np.array([0.16, 0.25]))
# Every level in either dimension, and the outer ones among them.
X = np.stack([np.arange(LEVELS), (2 * np.arange(LEVELS) + 1) % LEVELS], axis=1)


def dequantized(keys):
  return probability_flow.dequantized_log_likelihood(
    keys, X, LEVELS, denoiser(PLANE), NOISY, -16.0, 30
  )


def mass_of_cells():
  """The model's probability of each of X: the noise at NOISY is part of its density."""
  centers, half = np.linspace(-1, 1, LEVELS)[X], 1 / (LEVELS - 1)
  model = norm(PLANE.mean, np.sqrt(PLANE.covariance + np.exp(-NOISY)))
  return np.prod(model.cdf(centers + half) - model.cdf(centers - half), axis=1)


def test_dequantisation_bounds_the_probability_of_the_levels():
  """E[exp] is the mass of the model's density in the cell, exactly; E is below its logarithm."""
  k, mass = 2000, mass_of_cells()
  draw_keys = jax.vmap(lambda key: jax.random.split(key, LEVELS))(keys(k))
  draws = np.asarray(jax.jit(jax.vmap(dequantized))(draw_keys))
  weights = np.exp(draws)
  error = weights.std(0) / np.sqrt(k)
  assert np.all(np.abs(weights.mean(0) - mass) < 5 * error + 1e-4 * mass)
  assert np.all(error < 0.03 * mass)  # else the check above could not fail
  below = np.log(mass) - draws.mean(0)
  assert below.mean() > 5 * draws.mean(1).std() / np.sqrt(k)


def test_dequantised_draws_stream_into_a_tighter_bound():
  """500 draws, the spread of one below 1.2 of its mean: within 5 standard errors."""
  bound = jax.jit(
    lambda keys: bounds.streamed_importance_weighted(keys, dequantized, num_draws=500, chunk=100)
  )(keys(LEVELS))
  np.testing.assert_allclose(np.exp(bound), mass_of_cells(), rtol=5 * 1.2 / np.sqrt(500))


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'divergence': 'trace'}, "divergence is 'trace'; it is one of exact, hutchinson"),
    ({'num_steps': 0}, 'num_steps is 0; it is at least 1'),
    ({'num_probes': 0}, 'num_probes is 0; it is at least 1'),
  ],
)
def test_what_there_is_not_is_refused(options, message):
  options = {'num_steps': 5, **options}
  with pytest.raises(ValueError, match=message):
    probability_flow.log_likelihood(keys(2), points(FULL, 2), denoiser(FULL), 8.0, -8.0, **options)
