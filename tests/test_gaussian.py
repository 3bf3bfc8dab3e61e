"""Sampling, density, entropy and KL of Gaussians against SciPy, Monte Carlo and identities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from vaediff import gaussian
from vaediff.gaussian import MultivariateNormal, Normal

B, D = 3, 4


def normal(seed, shape=(B, D)):
  rng = np.random.default_rng(seed)
  return Normal(
    jnp.asarray(rng.normal(size=shape), jnp.float32),
    jnp.asarray(rng.normal(size=shape), jnp.float32),
  )


def multivariate(seed, diagonal_shift=1.5):
  rng = np.random.default_rng(seed)
  matrix = np.tril(rng.normal(size=(B, D, D)))
  diagonal = np.exp(0.3 * rng.normal(size=(B, D))) * diagonal_shift
  matrix[:, np.arange(D), np.arange(D)] = diagonal
  return MultivariateNormal(
    jnp.asarray(rng.normal(size=(B, D)), jnp.float32), jnp.asarray(matrix, jnp.float32)
  )


DISTRIBUTIONS = {'normal': normal(0), 'multivariate': multivariate(1)}
PAIRS = {
  f'{q_name}|{p_name}': (q, p)
  for q_name, q in {'normal': normal(0), 'multivariate': multivariate(1)}.items()
  for p_name, p in {'normal': normal(2), 'multivariate': multivariate(3)}.items()
}


def moments(q):
  """Mean [B, D] and covariance [B, D, D] in float64."""
  if isinstance(q, Normal):
    return np.float64(q.mean), np.stack([np.diag(np.exp(v)) for v in np.float64(q.log_var)])
  scale = np.tril(np.float64(q.scale_tril))
  return np.float64(q.mean), scale @ scale.swapaxes(1, 2)


def exact_kl(q, p):
  """The textbook formula (lecture section 3.2, for a general second argument) in float64."""
  (m_q, c_q), (m_p, c_p) = moments(q), moments(p)
  inverse = np.linalg.inv(c_p)
  trace = np.trace(inverse @ c_q, axis1=1, axis2=2)
  distance = np.einsum('bi,bij,bj->b', m_q - m_p, inverse, m_q - m_p)
  log_det = np.linalg.slogdet(c_p)[1] - np.linalg.slogdet(c_q)[1]
  return 0.5 * (trace + distance - m_q.shape[1] + log_det)


@pytest.mark.parametrize('name', DISTRIBUTIONS)
def test_log_prob_and_entropy_match_scipy(name):
  q = DISTRIBUTIONS[name]
  x = np.random.default_rng(5).normal(size=(B, D)).astype(np.float32)
  mean, covariance = moments(q)
  for b in range(B):
    exact = scipy.stats.multivariate_normal(mean[b], covariance[b])
    np.testing.assert_allclose(gaussian.log_prob(q, x)[b], exact.logpdf(x[b]), rtol=1e-5)
    np.testing.assert_allclose(gaussian.entropy(q)[b], exact.entropy(), rtol=1e-5)


@pytest.mark.parametrize('name', DISTRIBUTIONS)
def test_samples_have_the_mean_and_covariance(name):
  # Each of the 3 x (4 + 16) z-scores exceeds 5 with probability 6e-7: false alarm rate < 4e-5.
  q, n = DISTRIBUTIONS[name], 20_000
  keys = jax.random.split(jax.random.key(0), n)
  x = np.float64(jax.vmap(lambda key: gaussian.sample(key, q))(keys))
  mean, covariance = moments(q)
  variance = np.diagonal(covariance, axis1=1, axis2=2)
  assert np.all(np.abs(x.mean(0) - mean) < 5 * np.sqrt(variance / n))
  centred = x - mean
  estimate = np.einsum('nbi,nbj->bij', centred, centred) / n
  # Var of a product of Gaussians: C_ii C_jj + C_ij^2 (Isserlis).
  spread = np.einsum('bi,bj->bij', variance, variance) + covariance**2
  assert np.all(np.abs(estimate - covariance) < 5 * np.sqrt(spread / n))


def test_one_key_per_example_makes_a_draw_independent_of_the_batch():
  q, keys = normal(0), jax.random.split(jax.random.key(1), B)
  whole = gaussian.sample(keys, q)
  alone = gaussian.sample(keys[1:2], Normal(q.mean[1:2], q.log_var[1:2]))
  np.testing.assert_array_equal(whole[1:2], alone)


@pytest.mark.parametrize('name', PAIRS)
def test_kl_matches_the_textbook_formula_in_float64(name):
  q, p = PAIRS[name]
  np.testing.assert_allclose(gaussian.kl(q, p), exact_kl(q, p), rtol=1e-5)


@pytest.mark.parametrize('name', PAIRS)
def test_kl_matches_monte_carlo(name):
  # Three z-scores within 5: false alarm rate < 2e-6.
  q, p = PAIRS[name]
  x = jax.vmap(lambda key: gaussian.sample(key, q))(jax.random.split(jax.random.key(2), 20_000))
  log_ratio = jax.vmap(lambda x: gaussian.log_prob(q, x) - gaussian.log_prob(p, x))(x)
  error = np.std(log_ratio, axis=0) / np.sqrt(len(x))
  assert np.all(np.abs(np.mean(log_ratio, axis=0) - gaussian.kl(q, p)) < 5 * error)


def test_kl_to_standard_normal_is_the_formula_of_the_lecture():
  for q in DISTRIBUTIONS.values():
    mean, covariance = moments(q)
    trace = np.trace(covariance, axis1=1, axis2=2)
    lecture = 0.5 * (trace + (mean**2).sum(1) - D - np.linalg.slogdet(covariance)[1])
    np.testing.assert_allclose(gaussian.kl_to_standard_normal(q), lecture, rtol=1e-5)


@pytest.mark.parametrize('difference', [1e-1, 1e-3, 1e-5, 1e-6])
def test_kl_keeps_its_digits_where_the_two_almost_agree(difference):
  """The textbook formula gives 0 or rounding noise here: the true value is about difference^2."""
  mean = jnp.zeros((1, 1))
  q, p = Normal(mean, jnp.full((1, 1), difference)), Normal(mean, mean)
  u = np.float64(np.float32(difference))
  exact = 0.5 * sum(u**n / np.prod(np.arange(1.0, n + 1)) for n in range(2, 12))
  np.testing.assert_allclose(gaussian.kl(q, p)[0], exact, rtol=1e-6)
  scale = jnp.float32(1) + jnp.float32(difference)
  q_full = MultivariateNormal(mean, scale.reshape(1, 1, 1))
  excess = np.float64(scale) - 1
  exact = 0.5 * (2 * excess + excess**2 - 2 * np.log1p(excess))
  if excess < 1e-3:  # where float64 itself runs out: the series of the same
    exact = excess**2 - excess**3 / 3
  identity = MultivariateNormal(mean, jnp.ones((1, 1, 1)))
  np.testing.assert_allclose(gaussian.kl(q_full, identity)[0], exact, rtol=1e-3 * difference + 1e-5)


def test_kl_far_apart_is_finite_with_finite_gradients():
  def divergence(log_var):
    q = Normal(jnp.zeros((1, 1)), log_var.reshape(1, 1))
    return gaussian.kl(q, Normal(jnp.ones((1, 1)), jnp.zeros((1, 1))))[0]

  for log_var in (-80.0, -1.0, 0.0, 1e-7, 40.0):
    value, gradient = jax.value_and_grad(divergence)(jnp.float32(log_var))
    assert np.isfinite(value)
    # d/du of 1/2 (e^u - 1 - u) = 1/2 (e^u - 1)
    np.testing.assert_allclose(gradient, 0.5 * np.expm1(np.float64(log_var)), rtol=1e-5, atol=1e-9)


def test_expm1_minus_identity_to_float32_accuracy():
  u = np.concatenate([-np.logspace(-7, 1.9, 200), np.logspace(-7, 1.9, 200)]).astype(np.float32)
  v = np.float64(u)
  series = sum(v**n / scipy.special.factorial(n) for n in range(2, 14))
  exact = np.where(np.abs(v) < 0.5, series, np.expm1(v) - v)
  np.testing.assert_allclose(gaussian.expm1_minus_identity(u), exact, rtol=2e-6)


FLOATS = st.floats(-3, 3, width=32)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(FLOATS, FLOATS, FLOATS, FLOATS), min_size=1, max_size=3))
def test_kl_is_non_negative_and_zero_only_on_itself(rows):
  m_q, v_q, m_p, v_p = jnp.asarray(rows, jnp.float32).T[:, None]
  q, p = Normal(m_q, v_q), Normal(m_p, v_p)
  assert gaussian.kl(q, p)[0] >= 0
  assert gaussian.kl(q, q)[0] == 0
  assert gaussian.kl_to_standard_normal(q)[0] >= 0


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(FLOATS, min_size=8, max_size=8))
def test_full_kl_is_non_negative_and_zero_only_on_itself(values):
  def lower(a, b, c):
    return jnp.array([[[jnp.exp(a), 0.0], [b, jnp.exp(c)]]], jnp.float32)

  q = MultivariateNormal(jnp.array([values[:2]], jnp.float32)[:, :2], lower(*values[2:5]))
  p = MultivariateNormal(jnp.zeros((1, 2)), lower(*values[5:]))
  assert gaussian.kl(q, p)[0] >= 0
  assert gaussian.kl(q, q)[0] == 0


def test_what_stands_above_the_diagonal_is_never_read():
  q, p = multivariate(1), multivariate(3)
  dirty = MultivariateNormal(q.mean, q.scale_tril + 7 * jnp.triu(jnp.ones((D, D)), 1))
  np.testing.assert_array_equal(gaussian.kl(dirty, p), gaussian.kl(q, p))
  np.testing.assert_array_equal(gaussian.kl(p, dirty), gaussian.kl(p, q))
  key = jax.random.key(0)
  np.testing.assert_array_equal(gaussian.sample(key, dirty), gaussian.sample(key, q))
  np.testing.assert_array_equal(gaussian.log_prob(dirty, p.mean), gaussian.log_prob(q, p.mean))


def test_the_event_may_have_any_shape():
  q, p = normal(0, (2, 3, 2)), normal(1, (2, 3, 2))
  flat = [Normal(*(a.reshape(2, 6) for a in d)) for d in (q, p)]
  np.testing.assert_allclose(gaussian.kl(q, p), gaussian.kl(*flat), rtol=1e-6)
  np.testing.assert_allclose(
    gaussian.log_prob(q, p.mean), gaussian.log_prob(flat[0], flat[1].mean), rtol=1e-6
  )
