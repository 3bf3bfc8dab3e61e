"""Code distributions: their KL against Monte Carlo, their shapes, what free bits are given to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaediff import latents, uniform

D, B = 3, 4


@pytest.fixture(params=latents.LATENTS, ids='-'.join)
def latent(request):
  return latents.LATENTS[request.param]


def posterior(latent):
  outputs = np.random.default_rng(0).normal(size=(B, latent.num_outputs(D)))
  return latent.posterior(jnp.asarray(outputs, jnp.float32))


def test_kl_is_the_expected_log_ratio(latent):
  """20,000 draws for each of 4 posteriors, within 5 standard errors: false alarm rate 3e-6."""
  q = posterior(latent)

  def log_ratio(key):
    z = latent.sample(jax.random.split(key, B), q)
    return latent.log_prob(q, z) - latent.prior_log_prob(z)

  draws = jax.vmap(log_ratio)(jax.random.split(jax.random.key(0), 20_000))
  error = np.std(draws, axis=0) / np.sqrt(len(draws))
  kl = latent.kl(q)
  assert kl.shape == (B,)
  assert np.all(kl > 0)
  # A uniform posterior has one log-ratio inside its box, so there is rounding only.
  assert np.all(np.abs(draws.mean(0) - kl) <= 5 * error + 1e-5 * kl)


def test_groups_sum_to_the_kl(latent):
  q = posterior(latent)
  np.testing.assert_allclose(latent.kl_groups(q).sum(-1), latent.kl(q), rtol=1e-5)


def test_draws_have_the_mean(latent):
  """12 means within 5 standard errors: false alarm rate 7e-6."""
  q = posterior(latent)
  keys = jax.random.split(jax.random.key(1), 20_000)
  z = jax.vmap(lambda key: latent.sample(jax.random.split(key, B), q))(keys)
  assert z.shape == (20_000, B, D)
  assert np.all(np.abs(z.mean(0) - latent.mean(q)) < 5 * z.std(0) / np.sqrt(len(z)))


def test_prior_draws_are_likely_under_the_prior(latent):
  z = latent.prior_sample(jax.random.split(jax.random.key(2), 1000), D)
  assert z.shape == (1000, D)
  assert np.all(np.isfinite(latent.prior_log_prob(z)))


def test_gradients_pass_through_the_draw(latent):
  def first_code(outputs):
    return jnp.sum(latent.sample(jax.random.split(jax.random.key(3), B), latent.posterior(outputs)))

  gradient = jax.grad(first_code)(jnp.ones((B, latent.num_outputs(D))))
  assert np.all(np.isfinite(gradient))
  assert np.all(gradient[:, 0] != 0)


def test_full_posterior_is_lower_triangular_with_positive_diagonal():
  q = posterior(latents.FULL)
  assert latents.FULL.num_outputs(D) == 9
  np.testing.assert_array_equal(np.triu(q.scale_tril, 1), 0)
  assert np.all(np.diagonal(q.scale_tril, axis1=1, axis2=2) > 0)
  assert np.all(q.scale_tril[:, 2, 0] != 0)


@pytest.mark.parametrize('size', [0.1, 10.0, 100.0])
def test_boxes_lie_inside_the_unit_cube(size):
  outputs = size * np.random.default_rng(1).normal(size=(100, 2 * D))
  q = uniform.box_inside_unit_cube(jnp.asarray(outputs, jnp.float32))
  assert np.all(q.lower >= 0)
  assert np.all(q.lower + jnp.exp(q.log_width) <= 1 + 1e-6)
  assert np.all(uniform.kl_to_unit_cube(q) >= 0)


def test_density_of_a_box():
  q = uniform.Box(jnp.array([[0.2, 0.5]]), jnp.log(jnp.array([[0.5, 0.25]])))
  np.testing.assert_allclose(uniform.log_prob(q, jnp.array([[0.3, 0.6]])), np.log(8), rtol=1e-6)
  assert np.isneginf(uniform.log_prob(q, jnp.array([[0.3, 0.4]]))[0])
