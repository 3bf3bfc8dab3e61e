"""Codes and what is decoded from them: fitted distributions, refinement, the plain autoencoder.

The networks are matrices and the data real numbers, so that every answer is known.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaediff import gaussian, latents, likelihoods
from vaediff.likelihoods import Likelihood
from vaediff.methods import coding
from vaediff.methods.autoencoder import autoencoder
from vaediff.methods.base import Batch, Code, Variables
from vaediff.networks import Network

D = 2
MEAN = np.array([1.0, -2.0])
COVARIANCE = np.array([[2.0, 0.6], [0.6, 0.5]])


def matrix(value) -> Network:
  """x -> x @ value."""
  return Network(lambda key, x: jnp.float32(value), lambda params, x: x @ params)


# What the decoder outputs is the picture. With three levels `center` is x - 1.
REAL = Likelihood(
  num_outputs=1,
  log_prob=lambda outputs, x: gaussian.log_prob(gaussian.Normal(outputs, jnp.zeros(())), x),
  mean=lambda outputs: outputs,
  sample=lambda keys, outputs: outputs + jax.random.normal(keys[0], outputs.shape),
)
ENCODER = np.array([[0.5, 0.1], [0.0, 0.3], [0.2, -0.2]])
DECODER = np.array([[1.0, 0.0, 0.5], [0.2, 1.0, 0.0]])


def make(**options):
  method = autoencoder(matrix(ENCODER), matrix(DECODER), REAL, D, num_levels=3, **options)
  return method, method.init(jax.random.key(0), batch(np.zeros((1, 3))))


def batch(x) -> Batch:
  n = len(x)
  return Batch(jnp.float32(x), np.full(n, -1, np.int32), np.arange(n, dtype=np.int32))


def keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


def normal_codes(n, seed=0):
  return np.random.default_rng(seed).multivariate_normal(MEAN, COVARIANCE, n)


def assert_moments(z, mean, covariance):
  """Within 5 standard errors, those of Gaussian draws: false alarm rate 6e-7 for each number."""
  z, variance = np.asarray(z, np.float64), np.diag(covariance)
  assert np.all(np.abs(z.mean(0) - mean) < 5 * np.sqrt(variance / len(z)))
  error = np.sqrt((np.outer(variance, variance) + np.square(covariance)) / len(z))
  assert np.all(np.abs(np.cov(z.T) - covariance) < 5 * error)


def test_one_component_is_the_mean_and_covariance_of_the_codes():
  codes = normal_codes(200)
  fitted = coding.fit_codes(codes, 1)
  np.testing.assert_allclose(fitted.weights, [1])
  np.testing.assert_allclose(fitted.means, codes.mean(0)[None], rtol=1e-5)
  (scale_tril,) = fitted.scale_trils
  assert np.all(np.triu(scale_tril, 1) == 0)
  # Of most likelihood: divided by N.
  covariance = np.cov(codes.T, ddof=0)
  np.testing.assert_allclose(scale_tril @ scale_tril.T, covariance, rtol=1e-5, atol=2e-6)
  assert all(part.dtype == np.float32 for part in fitted)


def test_a_mixture_finds_separated_components_and_is_the_same_each_time():
  centers = np.array([[-20.0, 0.0], [0.0, 15.0], [20.0, -5.0]])
  k = np.random.default_rng(0).choice(3, p=[0.5, 0.3, 0.2], size=2000)
  codes = normal_codes(2000) + centers[k]
  fitted = coding.fit_codes(codes, 3)
  order = np.argsort(fitted.means[:, 0])
  for found, true in zip(order, range(3), strict=True):
    own = codes[k == true]
    np.testing.assert_allclose(fitted.weights[found], np.mean(k == true), rtol=1e-4)
    np.testing.assert_allclose(fitted.means[found], own.mean(0), rtol=1e-3)
    scale_tril = fitted.scale_trils[found]
    np.testing.assert_allclose(scale_tril @ scale_tril.T, np.cov(own.T, ddof=0), rtol=1e-3)
  for a, b in zip(fitted, coding.fit_codes(codes, 3), strict=True):
    np.testing.assert_array_equal(a, b)


def test_draws_from_fitted_codes_have_their_moments():
  weights, means = np.array([0.25, 0.75]), np.array([[2.0, 0.0], [-1.0, 1.0]])
  scale_trils = np.array([[[1.0, 0.0], [0.5, 0.3]], [[0.2, 0.0], [-0.4, 1.0]]])
  fitted = coding.FittedCodes(*(jnp.float32(part) for part in (weights, means, scale_trils)))
  n = 2**15
  z = np.asarray(jax.jit(coding.sample_codes)(keys(n), fitted), np.float64)
  mean = weights @ means
  covariances = scale_trils @ np.swapaxes(scale_trils, 1, 2)
  offset = means - mean
  covariance = np.einsum('k,kij->ij', weights, covariances + offset[:, :, None] * offset[:, None])
  # 5 standard errors, from the draws themselves.
  assert np.all(np.abs(z.mean(0) - mean) < 5 * z.std(0) / np.sqrt(n))
  products = (z - mean)[:, :, None] * (z - mean)[:, None]
  assert np.all(np.abs(products.mean(0) - covariance) < 5 * products.std(0) / np.sqrt(n))
  # The second component has its mean below 0, and 3/4 of the draws.
  assert abs(np.mean(z[:, 0] < 0.5) - (0.75 + 0.25 * 0.0668)) < 5 * np.sqrt(0.18 / n)


def make_code(latent=latents.POINT, log_var=0.0) -> Code:
  """Encoder and decoder without the rounding of pictures: z -> A z, x -> B x, with a variance."""

  def posterior(variables, x):
    outputs = x @ jnp.float32(ENCODER)
    if latent is latents.POINT:
      return latent.posterior(outputs)
    return latent.posterior(jnp.concatenate([outputs, jnp.full_like(outputs, log_var)], axis=1))

  def decode(variables, keys, z):
    return z @ jnp.float32(DECODER)

  return Code(D, latent, None, posterior, None, decode)


COMPOSED = DECODER @ ENCODER


def test_no_refinement_is_the_identity():
  z = jnp.float32(normal_codes(4))
  np.testing.assert_array_equal(coding.refine(make_code(), Variables({}), keys(4), z, 0), z)


@pytest.mark.parametrize('by', coding.REFINEMENTS)
def test_refinement_of_a_linear_pair_is_a_power_of_its_matrix(by):
  """Of a point the mean and a draw are the same. The matrix contracts: codes converge to 0."""
  z = jnp.float32(normal_codes(8))
  for iterations in (1, 2, 5):
    exact = z @ np.linalg.matrix_power(COMPOSED, iterations)
    actual = coding.refine(make_code(), Variables({}), keys(8), z, iterations, by)
    np.testing.assert_allclose(actual, exact, rtol=1e-5, atol=1e-6)
  assert np.max(np.abs(np.linalg.eigvals(COMPOSED))) < 1
  assert np.max(np.abs(coding.refine(make_code(), Variables({}), keys(8), z, 60, by))) < 1e-3


def test_refinement_by_samples_adds_new_noise_each_time():
  """From z = 0 the covariance after 3 iterations is sum_i (M^T)^i s^2 M^i for i = 0, 1, 2."""
  n, log_var = 2**14, np.log(0.3)
  code, z = make_code(latents.DIAGONAL, log_var), jnp.zeros((n, D))
  drawn = coding.refine(code, Variables({}), keys(n), z, 3, 'sample')
  powers = [np.linalg.matrix_power(COMPOSED, i) for i in range(3)]
  assert_moments(drawn, np.zeros(D), 0.3 * sum(power.T @ power for power in powers))
  np.testing.assert_array_equal(coding.refine(code, Variables({}), keys(n), z, 3, 'mean'), z)


def test_the_loss_of_an_autoencoder_is_its_reconstruction():
  method, variables = make()
  x = np.random.default_rng(0).normal(size=(4, 3))
  terms = method.loss(variables, keys(4), batch(x), 0)
  exact = 0.5 * np.sum((x - (x - 1) @ ENCODER @ DECODER) ** 2 + np.log(2 * np.pi), axis=1)
  assert terms.keys() == {'loss'}
  np.testing.assert_allclose(terms['loss'], exact, rtol=1e-5)
  reconstruction = method.reconstruct(variables, keys(4), batch(x))
  np.testing.assert_allclose(reconstruction, (x - 1) @ ENCODER @ DECODER, rtol=1e-4, atol=1e-5)
  # There is no density of the codes, hence no bound and no KL.
  assert method.log_likelihood_bound is None
  assert (method.code.latent.kl, method.code.latent.log_prob) == (None, None)


def test_the_code_of_an_autoencoder_is_a_point():
  method, variables = make()
  q = method.code.posterior(variables, jnp.ones((4, 3)) * jnp.arange(4.0)[:, None])
  z = method.code.latent.sample(keys(4), q)
  np.testing.assert_array_equal(z, method.code.latent.mean(q))
  np.testing.assert_array_equal(z, gaussian.sample(keys(4), q))
  assert np.all(np.isneginf(q.log_var))
  gradient = jax.grad(lambda x: jnp.sum(latents.POINT.sample(None, latents.POINT.posterior(x))))
  np.testing.assert_array_equal(gradient(jnp.ones((4, D))), 1)


def decoded_moments(mean, covariance):
  return mean @ DECODER, DECODER.T @ covariance @ DECODER


def test_samples_from_the_prior_decode_standard_normal_codes():
  method, variables = make()
  assert method.fit is None
  x = method.sample(variables, keys(2**14), None)
  assert_moments(x, *decoded_moments(np.zeros(D), np.eye(D)))


@pytest.mark.parametrize(
  'options', [{'codes': 'normal'}, {'codes': 'mixture', 'num_components': 2}]
)
def test_samples_from_fitted_codes_have_the_moments_of_the_codes(options):
  """EM keeps the codes' mean and covariance: those of the samples are the decoded ones."""
  method, variables = make(**options)
  pictures = np.random.default_rng(1).normal(size=(500, 3)) * [1, 2, 3] + 5
  statistics = method.statistics(variables, keys(500), batch(pictures))
  codes = (pictures - 1) @ ENCODER
  np.testing.assert_allclose(statistics['codes'], codes, rtol=1e-4, atol=1e-5)
  fitted = method.fit(jax.tree.map(np.asarray, statistics))
  assert len(fitted.weights) == options.get('num_components', 1)
  x = method.sample(variables._replace(fitted=fitted), keys(2**14), None)
  assert_moments(x, *decoded_moments(codes.mean(0), np.cov(codes.T, ddof=0)))


def test_samples_are_refined():
  """Each iteration decodes, centres (x - 1) and encodes again."""
  plain, variables = make()
  refined, _ = make(refinements=2)
  x = plain.sample(variables, keys(8), None)
  for _ in range(2):
    x = (x - 1) @ ENCODER @ DECODER
  np.testing.assert_allclose(refined.sample(variables, keys(8), None), x, rtol=1e-4, atol=1e-5)


def test_pixels_are_means_or_draws():
  likelihood = likelihoods.bernoulli()
  decoder = Network(lambda key, z: {}, lambda params, z: 0 * z - 1.0)  # p = 0.2689
  for sample_pixels, mean in ((False, 0.0), (True, 1 / (1 + np.e))):
    method = autoencoder(matrix(np.eye(D)), decoder, likelihood, D, 2, sample_pixels)
    x = method.sample(Variables({'encoder': np.eye(D), 'decoder': {}}), keys(2**14), None)
    # 5 standard errors: false alarm rate 6e-7.
    assert abs(np.mean(x) - mean) <= 5 * np.sqrt(mean * (1 - mean) / x.size)


def test_what_cannot_be_is_refused():
  for options, message in (
    ({'codes': 'nonsense'}, "codes is 'nonsense'; it is one of prior, normal, mixture"),
    ({'refine_by': 'nonsense'}, "refine_by is 'nonsense'; it is one of mean, sample"),
    ({'refinements': -1}, 'refinements is -1; it is at least 0'),
    ({'num_components': 0}, 'num_components is 0; it is at least 1'),
  ):
    with pytest.raises(ValueError, match=message):
      make(**options)
  method, variables = make(codes='normal')
  with pytest.raises(ValueError, match='nothing is fitted'):
    method.sample(variables, keys(2), None)
  with pytest.raises(ValueError, match='2 codes for 3 components'):
    coding.fit_codes(np.zeros((2, D)), 3)
