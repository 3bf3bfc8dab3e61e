"""Likelihoods: probabilities that sum to one, values against SciPy, tails, sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from vaediff import likelihoods

LOG_PROBS = {
  'normal': (likelihoods.discretized_normal_log_prob, scipy.stats.norm),
  'logistic': (likelihoods.discretized_logistic_log_prob, scipy.stats.logistic),
}


def every_level(num_levels):
  return jnp.arange(num_levels)[:, None]


@pytest.mark.parametrize('name', LOG_PROBS)
@pytest.mark.parametrize('num_levels', [2, 17, 256])
@pytest.mark.parametrize('mean', [-3.0, -1.0, 0.1, 0.99, 5.0])
@pytest.mark.parametrize('log_scale', [-12.0, -6.0, -3.0, 0.0, 3.0])
def test_probabilities_over_all_levels_sum_to_one(name, num_levels, mean, log_scale):
  log_prob, _ = LOG_PROBS[name]
  log_probs = log_prob(every_level(num_levels), mean, log_scale, num_levels)
  assert np.all(np.isfinite(log_probs))
  np.testing.assert_allclose(np.exp(np.float64(log_probs)).sum(), 1, rtol=1e-5)


@pytest.mark.parametrize('name', LOG_PROBS)
def test_mass_of_a_level_is_that_of_its_interval(name):
  log_prob, exact = LOG_PROBS[name]
  mean, scale, K = 0.3, 0.2, 17
  edges = np.concatenate([[-np.inf], (np.arange(K - 1) + 0.5) * 2 / (K - 1) - 1, [np.inf]])
  # On the left of the mean by cdf, on the right by survival function: SciPy's digits in both tails.
  z = (edges - mean) / scale
  mass = np.where(z[1:] < 0, np.diff(exact.cdf(z)), -np.diff(exact.sf(z)))
  ours = log_prob(every_level(K), mean, np.log(scale), K)
  np.testing.assert_allclose(ours, np.log(mass), rtol=3e-5)


@pytest.mark.parametrize('name', LOG_PROBS)
def test_gradients_are_finite_and_right_far_in_the_tails(name):
  log_prob, _ = LOG_PROBS[name]
  level = jnp.array([[0.0]])
  for mean, log_scale in [(1.0, -5.0), (1.0, -8.0), (-1.0, -8.0), (40.0, -8.0)]:
    gradient = jax.grad(lambda m: log_prob(level, m, log_scale, 256)[0])(mean)  # noqa: B023
    assert np.isfinite(gradient)
  # log P ~ -z^2 / 2 (normal) and -z (logistic) for level 0 far left of the mean.
  edge, scale = -1 + 1 / 255, np.exp(-8.0)
  slope = {'normal': (edge - 1) / scale**2, 'logistic': -1 / scale}[name]
  np.testing.assert_allclose(
    jax.grad(lambda m: log_prob(level, m, -8.0, 256)[0])(1.0), slope, rtol=1e-3
  )


def test_log_ndtr_has_the_right_derivative_everywhere():
  z = np.array([-2000, -50, -8, -5.01, -5, -4.99, -1, 0, 3, 8], np.float32)
  exact = np.exp(scipy.stats.norm.logpdf(np.float64(z)) - scipy.special.log_ndtr(np.float64(z)))
  np.testing.assert_allclose(jax.vmap(jax.grad(likelihoods.log_ndtr))(z), exact, rtol=1e-5)


def test_bernoulli_log_prob():
  logits = jnp.array([[-100.0, -2.0, 0.0, 3.0, 100.0]])
  for x in (np.zeros((1, 5)), np.ones((1, 5)), np.array([[0, 1, 0, 1, 1]])):
    p = scipy.special.expit(np.float64(logits))
    exact = scipy.special.xlogy(x, p) + scipy.special.xlog1py(1 - x, -p)
    exact[np.isneginf(exact)] = -100  # expit has rounded to 0 or 1
    ours = likelihoods.bernoulli_log_prob(x, logits)
    np.testing.assert_allclose(ours, exact.sum(1), rtol=1e-6)


def test_nearest_level_is_bayes_rule():
  K, signal, noise = 17, 0.9, 0.05
  x_t = jnp.array([[0.13, -0.95]])
  levels = np.linspace(-1, 1, K)
  weights = scipy.stats.norm.pdf(np.array([0.13, -0.95])[:, None], signal * levels, noise)
  exact = np.log(weights / weights.sum(1, keepdims=True))
  for k in (0, 1, 9):
    ours = likelihoods.nearest_level_log_prob(np.array([[k, k]]), x_t, signal, noise, K)
    np.testing.assert_allclose(ours[0], exact[:, k].sum(), rtol=1e-4)


def test_level_log_prob_weighs_the_levels_by_their_prior():
  K, signal, noise = 5, 0.8, 0.3
  x_t, prior = (
    np.array([[0.3, -1.4]]),
    np.array([[0.1, 0.2, 0.3, 0.35, 0.05], [0.6, 0.1, 0.1, 0.1, 0.1]]),
  )
  weights = prior * scipy.stats.norm.pdf(x_t[0, :, None], signal * np.linspace(-1, 1, K), noise)
  exact = np.log(weights / weights.sum(1, keepdims=True))
  for x in ([0, 4], [3, 0]):
    # The constant of the log-prior is free.
    log_prior = 7 + np.log(prior)
    ours = likelihoods.level_log_prob(np.array([x]), jnp.float32(x_t), log_prior, signal, noise)
    np.testing.assert_allclose(ours[0], exact[0, x[0]] + exact[1, x[1]], rtol=1e-5)


@pytest.mark.parametrize('num_levels', [2, 17, 256])
def test_levels_survive_the_way_to_the_network_and_back(num_levels):
  levels = np.arange(num_levels, dtype=np.uint8)
  centred = likelihoods.center(levels, num_levels)
  assert (centred[0], centred[-1]) == (-1, 1)
  np.testing.assert_array_equal(likelihoods.quantize(centred, num_levels), levels)
  assert likelihoods.quantize(jnp.array([-9.0, 9.0]), num_levels).tolist() == [0, num_levels - 1]


FAMILIES = {
  'bernoulli': (likelihoods.bernoulli(), 2),
  'discretized_normal': (likelihoods.discretized_normal(17), 17),
  'discretized_logistic': (likelihoods.discretized_logistic(17), 17),
}


@pytest.mark.parametrize('name', FAMILIES)
def test_draws_have_the_frequencies_of_log_prob(name):
  # Pearson's chi-squared on up to 17 levels at p = 1e-5: false alarm rate 3e-5 for the three.
  likelihood, K = FAMILIES[name]
  n = 20_000
  outputs = jnp.broadcast_to(
    jnp.array([0.2, -1.5])[: likelihood.num_outputs], (n, likelihood.num_outputs)
  )
  x = likelihood.sample(jax.random.split(jax.random.key(0), n), outputs)
  assert x.dtype == jnp.uint8
  assert x.shape == (n, 1)
  p = np.exp(np.float64(likelihood.log_prob(outputs[:K], jnp.arange(K, dtype=jnp.uint8)[:, None])))
  counts = np.bincount(x[:, 0], minlength=K)
  often = n * p > 5
  statistic = np.sum((counts - n * p)[often] ** 2 / (n * p)[often])
  assert scipy.stats.chi2.sf(statistic, often.sum() - 1) > 1e-5
  assert likelihood.mean(outputs).shape == (n, 1)


def test_normal_is_a_density_of_real_numbers():
  """SciPy's density; 20,000 draws within 5 standard errors: a false-alarm rate of 1e-6."""
  likelihood, n = likelihoods.normal(), 20_000
  mean, scale = np.array([0.3, -2.0]), np.array([0.5, 0.05])
  outputs = jnp.broadcast_to(jnp.concatenate([mean, np.log(scale)]), (n, 4))
  x = likelihood.sample(jax.random.split(jax.random.key(0), n), outputs)
  exact = scipy.stats.norm.logpdf(x, mean, scale).sum(1)
  np.testing.assert_allclose(likelihood.log_prob(outputs, x), exact, rtol=1e-4, atol=1e-4)
  np.testing.assert_array_equal(likelihood.mean(outputs)[0], np.float32(mean))
  z = (np.asarray(x, np.float64) - mean) / scale
  assert np.all(np.abs(z.mean(0)) < 5 / np.sqrt(n))
  assert np.all(np.abs(z.var(0) - 1) < 5 * np.sqrt(2 / n))


def test_real_numbers_are_not_centred():
  x = np.array([[-3.5, 0.25]], np.float32)
  np.testing.assert_array_equal(likelihoods.center(x, None), x)


@pytest.mark.parametrize('size', [5, 16, 784, 3072])
def test_bernoulli_is_the_sum_of_log_sigmoids(size):
  """Values and gradients, far out in both tails and at zero too."""
  x, logits = np.random.default_rng(0).normal(size=(2, 3, size)).astype(np.float32)
  logits = np.concatenate([20 * logits, np.zeros((1, size), np.float32), 1e3 * logits[:1]])
  x = jnp.asarray(np.concatenate([x, x[:2]]) > 0)

  def plain(logits):
    return jnp.sum(jax.nn.log_sigmoid(jnp.where(x, logits, -logits)), axis=1)

  def ours(logits):
    return likelihoods.bernoulli_log_prob(x, logits)

  np.testing.assert_allclose(ours(logits), plain(logits), rtol=1e-6, atol=1e-5)
  slopes = [jax.grad(lambda logits, f=f: jnp.sum(f(logits)))(logits) for f in (ours, plain)]
  np.testing.assert_allclose(*slopes, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('shape', [(1,), (28, 28, 1), (32, 32, 3)])
def test_discretized_logistic_is_the_sum_of_log_masses(shape):
  """Values and gradients, at every kind of level, near the mean and far from it."""
  rng, K = np.random.default_rng(0), 256
  x = rng.integers(0, K, (64, *shape)).astype(np.uint8)
  x[:16] = rng.choice(np.array([0, K - 1], np.uint8), (16, *shape))
  mean, log_scale = rng.normal(size=(2, 64, *shape))
  log_scale = 3 * log_scale - 3
  outputs = np.concatenate([mean, log_scale], axis=-1).astype(np.float32)
  likelihood = likelihoods.discretized_logistic(K)

  def plain(outputs):
    mean, log_scale = jnp.split(outputs, 2, axis=-1)
    scale = 0.2 / (K - 1) + jnp.exp(log_scale)
    distance, half = 2 / (K - 1) * jnp.asarray(x, outputs.dtype) - 1 - mean, 1 / (K - 1)
    lower, upper = (distance - half) / scale, (distance + half) / scale
    below, above = jax.nn.log_sigmoid(upper), jax.nn.log_sigmoid(-lower)
    inner = below + above + jnp.log(-jnp.expm1(lower - upper))
    log_mass = jnp.where(x == 0, below, jnp.where(x == K - 1, above, inner))
    return jnp.sum(log_mass.reshape(len(x), -1), axis=1)

  def ours(outputs):
    return likelihood.log_prob(outputs, x)

  with jax.enable_x64(True):
    exact = plain(jnp.asarray(outputs, jnp.float64))
    exact_slope = jax.grad(lambda o: jnp.sum(plain(o)))(jnp.asarray(outputs, jnp.float64))
    exact, exact_slope = np.asarray(exact), np.asarray(exact_slope)
  np.testing.assert_allclose(ours(outputs), exact, rtol=1e-5, atol=1e-5)
  slope = jax.grad(lambda outputs: jnp.sum(ours(outputs)))(outputs)
  # Rounding moves a distance by 1e-7, and a slope by as much as that over the squared scale.
  scale = 0.2 / (K - 1) + np.exp(log_scale)
  rounding = 1e-6 + 5e-7 / np.concatenate([scale, scale], axis=-1) ** 2
  np.testing.assert_array_less(np.abs(slope - exact_slope), 1e-4 * np.abs(exact_slope) + rounding)
