"""Annealed importance sampling against exact likelihoods: probabilistic PCA, and by quadrature.

Statistical checks are within 5 standard errors: a false-alarm rate of 6e-7 for each number.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from scipy.stats import norm

from vaediff import analytic, annealed, gaussian, latents, uniform
from vaediff.gaussian import Normal

rng = np.random.default_rng(0)
MODEL = analytic.ProbabilisticPCA(
  jnp.asarray(rng.normal(size=(4, 2)), jnp.float32), jnp.asarray([0.3, -0.2, 0.0, 1.0]), 0.2
)
X = jnp.asarray(rng.normal(size=(4, 4)), jnp.float32)
EXACT = gaussian.log_prob(analytic.pca_marginal(MODEL), X)


def pca(x):
  """prior_sample, log_prior, log_likelihood for examples x."""

  def log_likelihood(z):
    mean = z @ MODEL.loadings.T + MODEL.mean
    return gaussian.log_prob(Normal(mean, jnp.full_like(mean, np.log(MODEL.noise_variance))), x)

  return (
    lambda keys: latents.DIAGONAL.prior_sample(keys, 2),
    latents.DIAGONAL.prior_log_prob,
    log_likelihood,
  )


def keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def excess(repeats, num_temperatures, num_chains, initial_step_size=0.6, adaptation_rate=0.1):
  """log-likelihood less the exact one, for X repeated with keys of their own: [repeats, 4]."""
  estimate = annealed.log_likelihood(
    keys(4 * repeats),
    *pca(jnp.tile(X, (repeats, 1))),
    num_temperatures,
    num_chains,
    5,
    initial_step_size,
    adaptation_rate,
  )
  return estimate.reshape(repeats, 4) - EXACT


def test_long_chains_find_the_likelihood():
  """300 temperatures, 20 chains: 200 errors with a standard deviation below 0.1 nats.

  The mean of an estimate whose weights have the relative spread s is s^2 / 2 below log p(x).
  """
  error = np.asarray(excess(50, 300, 20))
  assert error.std() < 0.1
  assert abs(error.mean() + np.var(error) / 2) < 5 * error.std() / np.sqrt(200)
  assert np.asarray(excess(50, 1, 20)).std() > 0.4  # what 20 draws of the prior give


@pytest.mark.parametrize(('num_temperatures', 'initial_step_size'), [(3, 0.6), (12, 1.0)])
def test_weights_are_unbiased(num_temperatures, initial_step_size):
  """E[w] = p(x): the mean of 4,000 one-chain estimates for each of four examples."""
  weights = np.exp(excess(4000, num_temperatures, 1, initial_step_size))
  error = weights.std(0) / np.sqrt(len(weights))
  assert np.all(np.abs(weights.mean(0) - 1) < 5 * error)
  assert np.all(error < 0.1)  # else the check above could not fail


def test_more_temperatures_and_more_chains_tighten_the_bound():
  """The mean over 800 estimates rises with either, and stays below log p(x), beyond 5 errors."""
  draws = [np.asarray(excess(200, *setting)) for setting in [(1, 1), (8, 1), (8, 8), (64, 8)]]
  means = [draw.mean() for draw in draws]
  errors = [draw.mean(1).std() / np.sqrt(200) for draw in draws]
  assert means[-1] < -5 * errors[-1]
  for i in range(3):
    assert means[i + 1] - means[i] > 5 * np.hypot(errors[i], errors[i + 1])


def test_one_temperature_is_importance_sampling_from_the_prior():
  z = jnp.asarray(rng.normal(size=(4, 2)), jnp.float32)
  _, log_prior, log_likelihood = pca(X)
  estimate = annealed.log_likelihood(keys(4), lambda _: z, log_prior, log_likelihood, 1, 3)
  np.testing.assert_allclose(estimate, log_likelihood(z), rtol=1e-6)


@pytest.mark.parametrize('initial_step_size', [0.01, 30.0])
def test_step_sizes_are_adapted(initial_step_size):
  """From some 50 times too small or too large, 300 temperatures are enough to find better ones."""

  def error(adaptation_rate):
    return np.sqrt(np.mean(excess(50, 300, 1, initial_step_size, adaptation_rate) ** 2))

  assert error(0.1) < 1
  assert error(0.0) > 2


def test_the_unit_cube_is_a_wall():
  """p(x) = int_0^1 N(x; 3 z, 0.3^2) dz, the posterior of the outer examples against a wall."""
  x = jnp.asarray([-0.3, 0.0, 1.5, 3.4])
  exact = np.log((norm.cdf((3 - x) / 0.3) - norm.cdf(-x / 0.3)) / 3)

  def log_likelihood(z):
    return gaussian.log_prob(Normal(3 * z, jnp.full_like(z, 2 * np.log(0.3))), x[:, None])

  estimate = annealed.log_likelihood(
    keys(4),
    lambda keys: latents.BOX.prior_sample(keys, 1),
    latents.BOX.prior_log_prob,
    log_likelihood,
    num_temperatures=100,
    num_chains=50,
    chunk=50,
  )
  np.testing.assert_allclose(estimate, exact, atol=0.1)
  gradient = jax.grad(lambda z: uniform.log_prob(uniform.Box(z * 0, z * 0), z)[0])
  np.testing.assert_array_equal(gradient(jnp.full((1, 1), 1.5)), 0.0)


def test_diverging_trajectories_are_rejected_and_adapted_away():
  """The forces of exp(-300 z^4) send steps of 30 to where float32 ends.

  Step sizes recover: the spread of 0.3 nats is below the 0.6 of chains that never move.
  """

  @functools.partial(jax.jit, static_argnums=0)
  def estimate(num_temperatures):
    return annealed.log_likelihood(
      keys(100, 1),
      lambda keys: latents.DIAGONAL.prior_sample(keys, 1),
      latents.DIAGONAL.prior_log_prob,
      lambda z: -300 * jnp.sum(z**4, -1),
      num_temperatures,
      num_chains=20,
      initial_step_size=30.0,
      chunk=20,
    )

  exact = np.log(scipy.integrate.quad(lambda z: norm.pdf(z) * np.exp(-300 * z**4), -1, 1)[0])
  assert np.std(estimate(600) - exact) < 0.4 < np.std(estimate(1) - exact)


def test_a_likelihood_that_is_not_a_number_is_not_hidden():
  prior_sample, log_prior, _ = pca(X)
  estimate = annealed.log_likelihood(
    keys(4), prior_sample, log_prior, lambda z: jnp.where(jnp.arange(4) == 2, jnp.nan, 0.0), 3, 2
  )
  np.testing.assert_array_equal(np.isnan(estimate), [False, False, True, False])


def test_an_example_depends_on_itself_and_its_key_alone_whatever_the_chunk():
  @functools.partial(jax.jit, static_argnums=2)
  def estimate(keys, x, chunk):
    return annealed.log_likelihood(keys, *pca(x), 10, 5, chunk=chunk)

  whole = estimate(keys(4), X, 1)
  np.testing.assert_allclose(estimate(keys(4)[1:3], X[1:3], 3), whole[1:3], rtol=1e-4)


def test_temperatures():
  """From 0 to 1, rising, symmetric, their odds those of a sigmoid from -4 to 4."""
  beta = annealed.sigmoidal_temperatures(10)
  assert beta[0] == 0
  assert beta[-1] == 1
  np.testing.assert_allclose(beta + beta[::-1], 1, atol=1e-12)
  low = 1 / (1 + np.exp(4))
  unscaled = low + (1 - 2 * low) * beta
  np.testing.assert_allclose(np.log(unscaled / (1 - unscaled)), np.linspace(-4, 4, 11))


@pytest.mark.parametrize('name', ['num_temperatures', 'num_leapfrog', 'chunk'])
def test_less_than_one_is_refused(name):
  arguments = {'num_temperatures': 2, 'num_chains': 2, name: 0}
  with pytest.raises(ValueError, match=f'{name} is 0; it is at least 1'):
    annealed.log_likelihood(keys(4), *pca(X), **arguments)
