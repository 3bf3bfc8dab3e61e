"""KL divergences against closed forms, quadrature by scipy, and the laws they obey.

Statistical checks are within 5 standard errors: false alarm rate 6e-7 for each number.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from vaediff import divergence, gaussian
from vaediff.gaussian import Normal

# Finite distributions

logits = st.lists(st.floats(-5, 5, width=32), min_size=4, max_size=4)


@given(logits, logits)
@settings(max_examples=50, deadline=None)
def test_finite_kl_is_the_sum_and_not_negative(left, right):
  q, p = (np.exp(x) / np.exp(x).sum() for x in (np.array(left), np.array(right)))
  kl = divergence.kl_finite(np.float32(q), np.float32(p))
  assert kl >= 0
  np.testing.assert_allclose(kl, scipy.stats.entropy(q, p), rtol=1e-4, atol=1e-10)


def test_finite_kl_at_equality_and_where_the_support_fails():
  q = jnp.array([[0.5, 0.5, 0.0], [0.3, 0.3, 0.4], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
  p = jnp.array([[0.25, 0.75, 0.0], [0.3, 0.3, 0.4], [0.5, 0.5, 0.0], [1e-38, 1.0, 0.0]])
  expected = [0.5 * math.log(4 / 3), 0.0, math.log(2), np.inf]
  np.testing.assert_allclose(divergence.kl_finite(q, p), expected, rtol=1e-6)
  assert divergence.kl_finite(q, p)[1] == 0
  assert np.isposinf(divergence.kl_finite(p[2], q[2]))  # not symmetric
  assert np.isnan(divergence.kl_finite(q[0].at[0].set(jnp.nan), p[0]))


@pytest.mark.parametrize('size', [1e-2, 1e-4, 1e-6])
def test_finite_kl_of_almost_equal_distributions(size):
  """float32, where sum q log(q / p) has no digit left. The reference is in float64."""
  q = np.float32([0.25, 0.5, 0.25])
  p = np.float32(q + np.array([size, -2 * size, size]))
  q_exact, p_exact = np.float64(q), np.float64(p)
  excess = (p_exact - q_exact) / q_exact
  expected = np.sum(q_exact * (excess - np.log1p(excess)))
  np.testing.assert_allclose(
    divergence.kl_finite(q, p), expected, rtol=1e-5 if size > 1e-5 else 1e-3
  )


def test_a_distribution_that_is_tiny_somewhere():
  """Nothing overflows where p / q does."""
  q = jnp.array([1e-38, 1.0])
  np.testing.assert_allclose(divergence.kl_finite(q, jnp.array([1.0, 0.0])), np.inf)
  np.testing.assert_allclose(divergence.kl_finite(q, jnp.array([0.5, 0.5])), math.log(2), rtol=1e-6)


# Monte Carlo

# Where p has heavier tails the terms of the control variate need not have a variance at all.
Q = Normal(jnp.array([[0.3, -0.2], [0.0, 0.0]]), jnp.array([[-0.2, 0.1], [-0.5, 0.3]]))
P = Normal(jnp.array([[0.2, 0.0], [0.3, 0.5]]), jnp.array([[-0.3, 0.1], [-0.8, -0.2]]))


def estimate(n, control_variate, seed=0):
  keys = jax.random.split(jax.random.key(seed), n)
  return divergence.monte_carlo_kl(
    keys,
    lambda key: gaussian.sample(key, Q),
    lambda z: gaussian.log_prob(Q, z),
    lambda z: gaussian.log_prob(P, z),
    control_variate,
  )


@pytest.mark.parametrize('control_variate', [False, True])
def test_monte_carlo_kl_is_the_closed_form(control_variate):
  """Within 15%, 5 standard errors of 100,000 draws; the spread of 200 estimates within 30%."""
  value, stderr = estimate(100_000, control_variate)
  exact = gaussian.kl(Q, P)
  assert value.shape == stderr.shape == (2,)
  assert np.all(np.abs(value - exact) < 5 * stderr)
  assert np.all(stderr < 0.03 * exact)
  repeats, errors = jax.vmap(lambda seed: estimate(500, control_variate, seed))(jnp.arange(200))
  spread = np.std(repeats, axis=0) / np.sqrt(np.mean(np.square(errors), axis=0))
  assert np.all(np.abs(spread - 1) < 0.3)


def test_the_control_variate_pays_where_the_two_are_close():
  """Terms of order u^2 / 2 in place of u."""
  plain, controlled = estimate(1000, False)[1], estimate(1000, True)[1]
  assert controlled[0] < plain[0] / 3


# The coin


@pytest.mark.parametrize('p', [0.5, 0.2, 1.0])
@pytest.mark.parametrize('n', [1, 10, 1000])
def test_coin_is_binomial(n, p):
  heads = np.arange(n + 1)
  log_prob = divergence.coin_log_prob(n, heads, p)
  with np.errstate(divide='ignore'):
    np.testing.assert_allclose(
      log_prob, scipy.stats.binom.logpmf(heads, n, p), rtol=1e-10, atol=1e-10
    )
    for k in (0, int(n * p), min(n, int(n * p) + 9)):
      expected = scipy.stats.binom.logsf(k - 1, n, p)
      np.testing.assert_allclose(divergence.coin_log_tail(n, k, p), expected, rtol=1e-9, atol=1e-9)
  assert np.exp(log_prob).sum() == pytest.approx(1)


def test_the_two_coins_of_the_lecture():
  """Q shows heads only. Fair tosses may look like Q: exactly e^{-n D}. Q's look fair: never."""
  assert divergence.coin_exponent(1.0) == pytest.approx(math.log(2))
  assert divergence.coin_log_prob(30, 30) == pytest.approx(-30 * divergence.coin_exponent(1.0))
  assert divergence.coin_exponent(0.5, 1.0) == np.inf
  assert divergence.coin_log_prob(30, 15, 1.0) == -np.inf
  assert divergence.coin_exponent(0.3, 0.3) == 0


def test_the_exponent_is_the_kl_of_coins():
  fraction, p = np.array([0.1, 0.5, 0.9]), np.array([0.2, 0.7, 0.5])
  kl = divergence.kl_finite(np.stack([fraction, 1 - fraction], -1), np.stack([p, 1 - p], -1))
  np.testing.assert_allclose(divergence.coin_exponent(fraction, p), kl, rtol=1e-5)


@pytest.mark.parametrize('p', [0.5, 0.2, 0.9])
@pytest.mark.parametrize('n', [1, 2, 7, 100, 5000])
def test_probabilities_stay_below_the_bound(n, p):
  """Every number of heads, both bounds; beside them rounding only."""
  heads = np.unique(np.linspace(0, n, 60).astype(int))
  bound = -n * divergence.coin_exponent(heads / n, p)
  log_prob = divergence.coin_log_prob(n, heads, p)
  assert np.all(log_prob <= bound + 1e-8)
  assert np.all(log_prob >= bound - 2 * np.log(n + 1) - 1e-8)
  upper = heads >= n * p
  tail = np.array([divergence.coin_log_tail(n, k, p) for k in heads[upper]])
  assert np.all(tail <= bound[upper] + 1e-8)


@pytest.mark.parametrize('p', [0.5, 0.2])
def test_the_exponent_is_reached_at_the_known_rate(p):
  """-1/n log P = D + (1/2 log(2 pi n a (1 - a)))/n + O(n^-2), a the fraction, by Stirling; in the
  tail each more head is r = p (1 - a) / (a (1 - p)) as likely as the one before: + log(1 - r)/n.
  """
  n, a = np.array([100, 1000, 10_000, 100_000]), 0.7
  heads = (7 * n) // 10
  excess = -divergence.coin_log_prob(n, heads, p) / n - divergence.coin_exponent(a, p)
  rate = 0.5 * np.log(2 * np.pi * n * a * (1 - a)) / n
  assert np.all(np.abs(excess - rate) < 1 / n**2 + 1e-14 * n)
  tail = np.array([divergence.coin_log_tail(i, k, p) for i, k in zip(n, heads)])
  tail_rate = rate + np.log1p(-p * (1 - a) / (a * (1 - p))) / n
  assert np.all(np.abs(-tail / n - divergence.coin_exponent(a, p) - tail_rate) < 10 / n**2 + 1e-12)


# Gaussian fits

TWO_BUMPS = ([0.4, 0.6], [-2.0, 1.5], [0.25, 0.49])
ONE_BUMP = ([0.4, 0.6], [-0.3, 0.4], [0.5, 1.0])
MIXTURES = pytest.mark.parametrize('mixture', [TWO_BUMPS, ONE_BUMP], ids=['two', 'one'])


def log_density(x, mixture):
  weights, means, variances = (np.array(array) for array in mixture)
  return np.log(weights @ scipy.stats.norm.pdf(x, means, np.sqrt(variances)))


def kl(mixture, mean, variance, forward):
  """By scipy's adaptive quadrature."""

  def integrand(x):
    log_p, log_g = log_density(x, mixture), scipy.stats.norm.logpdf(x, mean, np.sqrt(variance))
    left, right = (log_p, log_g) if forward else (log_g, log_p)
    return np.exp(left) * (left - right)

  return scipy.integrate.quad(integrand, -14, 14, points=[-2, 0, 1.5], limit=200, epsabs=1e-12)[0]


@MIXTURES
def test_forward_fit_is_the_minimum(mixture):
  fit = divergence.forward_fit(*mixture)
  assert fit.kl == pytest.approx(kl(mixture, fit.mean, fit.variance, forward=True), abs=1e-9)
  for mean, variance in neighbours(fit):
    assert kl(mixture, mean, variance, forward=True) > fit.kl


@MIXTURES
def test_reverse_fits_are_minima(mixture):
  fits = divergence.reverse_fit(*mixture)
  assert fits.mean.shape == fits.variance.shape == fits.kl.shape == (3,)
  assert np.all(np.diff(fits.kl) >= 0)
  for fit in map(divergence.GaussianFit, *fits):
    assert fit.kl == pytest.approx(kl(mixture, fit.mean, fit.variance, forward=False), abs=1e-9)
    for mean, variance in neighbours(fit):
      assert kl(mixture, mean, variance, forward=False) > fit.kl


def neighbours(fit, step=1e-3):
  for by_mean, by_variance in ((step, 0), (-step, 0), (0, step), (0, -step)):
    yield fit.mean + by_mean, fit.variance * (1 + by_variance)


def test_forward_covers_and_reverse_chooses():
  forward, reverse = divergence.forward_fit(*TWO_BUMPS), divergence.reverse_fit(*TWO_BUMPS)
  assert forward.variance > 3
  # The heavier bump, almost as it is, at the price of the other's weight.
  np.testing.assert_allclose([reverse.mean[0], reverse.variance[0]], [1.5, 0.49], rtol=0.1)
  assert reverse.kl[0] == pytest.approx(-math.log(0.6), rel=0.03)
  assert reverse.kl[-1] == pytest.approx(-math.log(0.4), rel=0.03)
  one = divergence.reverse_fit(*ONE_BUMP)
  np.testing.assert_allclose(one.mean, one.mean[0], rtol=1e-5)  # one minimum, from every start


def test_fits_of_a_gaussian_are_itself():
  mixture = ([0.5, 0.5], [0.7, 0.7], [0.2, 0.2])
  for fit in (divergence.forward_fit(*mixture), divergence.reverse_fit(*mixture)):
    np.testing.assert_allclose(fit.mean, 0.7)
    np.testing.assert_allclose(fit.variance, 0.2)
    np.testing.assert_allclose(fit.kl, 0, atol=1e-12)


def test_fits_refuse_other_shapes():
  with pytest.raises(
    ValueError, match=r'have shapes \[\(2,\), \(2, 1\), \(2,\)\]; each .* is \[K\]'
  ):
    divergence.forward_fit([0.5, 0.5], [[0.0], [1.0]], [1.0, 1.0])
