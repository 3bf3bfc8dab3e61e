"""Reparameterised gradients: against finite differences with common random numbers, and exact ones.

In float64, central differences with a step of 1e-5 are accurate to about 1e-9 of a gradient's size;
the same keys make an estimate a smooth function of the parameters.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from vaediff import analytic, bounds, forward_process, gaussian, latents, schedules
from vaediff.gaussian import Normal

B, D, LATENT_DIM, T = 3, 4, 2, 10
LOG_SNR = schedules.cosine(T)


@pytest.fixture(autouse=True)
def _float64():
  jax.config.update('jax_enable_x64', True)
  yield
  jax.config.update('jax_enable_x64', False)


def draw(*shape, seed=0):
  return 0.5 * np.random.default_rng(seed).normal(size=shape)


def keys(n=B, seed=0):
  return jax.random.split(jax.random.key(seed), n)


def assert_gradient_is_that_of_differences(function, params, step=1e-5):
  """Of the mean over the batch, in every parameter."""
  flat, unravel = ravel_pytree(params)

  def mean(flat):
    return jnp.mean(function(unravel(flat)))

  steps = step * np.concatenate([np.eye(len(flat)), -np.eye(len(flat))])
  ahead, behind = np.split(jax.jit(jax.vmap(mean))(flat + steps), 2)
  gradient, differences = jax.jit(jax.grad(mean))(flat), (ahead - behind) / (2 * step)
  assert np.all(gradient != 0)
  np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-8 * np.abs(gradient).max())


def vae(latent):
  """A nonlinear encoder and decoder, and the terms of their bounds for one draw of z."""
  num_outputs = latent.num_outputs(LATENT_DIM)
  params = {
    'encoder': (draw(D, num_outputs), draw(num_outputs, seed=1)),
    'decoder': (draw(LATENT_DIM, 2 * D, seed=2), draw(2 * D, seed=3)),
  }

  def terms(params, keys, x):
    w, b = params['encoder']
    q = latent.posterior(jnp.tanh(x @ w + b))
    z = latent.sample(keys, q)
    w, b = params['decoder']
    p = Normal(*jnp.split(jnp.tanh(z @ w + b), 2, axis=-1))
    log_likelihood = gaussian.log_prob(p, x)
    log_weight = log_likelihood + latent.prior_log_prob(z) - latent.log_prob(q, z)
    return log_likelihood, latent.kl(q), log_weight

  return params, terms


LATENTS = pytest.mark.parametrize(
  'latent', [latents.DIAGONAL, latents.FULL], ids=['diagonal', 'full']
)


@LATENTS
def test_elbo(latent):
  params, terms = vae(latent)
  x = draw(B, D, seed=4)

  def elbo(params):
    log_likelihood, kl, _ = terms(params, keys(), x)
    return bounds.elbo(log_likelihood, kl)['elbo']

  assert_gradient_is_that_of_differences(elbo, params)


@LATENTS
def test_importance_weighted_bound(latent):
  params, terms = vae(latent)
  x = draw(B, D, seed=4)

  def bound(params):
    return bounds.streamed_importance_weighted(
      keys(), lambda keys: terms(params, keys, x)[2], num_draws=5, chunk=2
    )

  assert_gradient_is_that_of_differences(bound, params)


def denoiser(params, x_t, log_snr_t):
  w, b, v = params
  return jnp.tanh(x_t @ w + b + 0.1 * log_snr_t[:, None] * v)


DENOISER_PARAMS = draw(D, D), draw(D, seed=1), draw(D, seed=2)


@pytest.mark.parametrize('t', [1, 2, T, (1, 2, T)])
def test_diffusion_term(t):
  """With a learned variance, for every example at t, and for a batch of all of them."""
  log_snr, x_0 = jnp.asarray(LOG_SNR), draw(B, D, seed=4)

  def term(params):
    *denoiser_params, log_var = params

    def reverse_step(x_t, t):
      x_0_hat = denoiser(denoiser_params, x_t, log_snr[t])
      mean = forward_process.posterior(x_0_hat, x_t, log_snr[t - 1], log_snr[t]).mean
      return Normal(mean, jnp.broadcast_to(log_var, mean.shape))

    def decoder_log_prob(x_1, reverse):
      return gaussian.log_prob(reverse, x_0)

    times = jnp.broadcast_to(jnp.asarray(t), (B,))
    return bounds.diffusion_term(keys(), x_0, times, log_snr, reverse_step, decoder_log_prob)

  assert_gradient_is_that_of_differences(term, (*DENOISER_PARAMS, draw(D, seed=5)))


def test_continuous_diffusion_term():
  """In the denoiser, and in the log-SNR at which it is asked, through x_t."""
  x_0 = draw(B, D, seed=4)

  def term(params):
    *denoiser_params, log_snr_t = params
    return bounds.diffusion_continuous_term(
      keys(), x_0, log_snr_t, functools.partial(denoiser, denoiser_params)
    )

  log_snr_t = jnp.asarray([-3.0, 0.5, 6.0])
  assert_gradient_is_that_of_differences(term, (*DENOISER_PARAMS, log_snr_t))


def test_continuous_diffusion_bound():
  """In the denoiser and in both ends of the log-SNR, as where these are learned."""
  x_0 = draw(B, D, seed=4)

  def elbo(params):
    *denoiser_params, first, last = params
    return bounds.diffusion_continuous_bound(
      keys(),
      x_0,
      first,
      last,
      functools.partial(denoiser, denoiser_params),
      lambda x_first: gaussian.log_prob(Normal(x_first, -first), x_0),
      3,
    )['elbo']

  ends = jnp.asarray(5.0), jnp.asarray(-4.0)
  assert_gradient_is_that_of_differences(elbo, (*DENOISER_PARAMS, *ends))


@LATENTS
def test_the_mean_gradient_of_the_elbo_is_the_exact_one(latent):
  """A linear VAE: 20,000 draws against the gradient of `analytic.pca_elbo`, in every parameter.

  Those of q at one x, of the loadings, mean and log-variance of the noise: 17 or 18 numbers within
  5 standard errors, a false-alarm rate of 1e-5.
  """
  x, n = draw(1, D, seed=4), 20_000
  outputs = draw(1, latent.num_outputs(LATENT_DIM), seed=5)
  params = (outputs, draw(D, LATENT_DIM, seed=6), draw(D, seed=7), jnp.asarray(-0.5))
  flat, unravel = ravel_pytree(params)

  def exact(flat):
    outputs, loadings, mean, log_var = unravel(flat)
    model = analytic.ProbabilisticPCA(loadings, mean, jnp.exp(log_var))
    return analytic.pca_elbo(model, x, latent.posterior(outputs))[0]

  def estimate(flat, key):
    outputs, loadings, mean, log_var = unravel(flat)
    q = latent.posterior(outputs)
    z = latent.sample(key[None], q)
    log_likelihood = gaussian.log_prob(Normal(z @ loadings.T + mean, log_var), x)
    return bounds.elbo(log_likelihood, latent.kl(q))['elbo'][0]

  draws = jax.jit(jax.vmap(jax.grad(estimate), (None, 0)))(flat, keys(n))
  error = draws.std(0) / np.sqrt(n)
  gradient = jax.jit(jax.grad(exact))(flat)
  assert np.all(error > 0)
  assert np.all(np.abs(draws.mean(0) - gradient) < 5 * error)
  assert np.linalg.norm(error) < 0.05 * np.linalg.norm(gradient)  # else it could not fail
