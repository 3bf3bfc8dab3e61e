"""What is special to the VAE: its objectives, the weight of the KL, the scale of its likelihood."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaediff import latents, likelihoods, schedules
from vaediff.methods.base import Batch, Variables
from vaediff.methods.vae import vae
from vaediff.networks import mlp, with_shared_channels

B, D, SHAPE = 16, 3, (4, 4, 1)
X = np.random.default_rng(0).integers(0, 2, (B, *SHAPE)).astype(np.uint8)
BATCH = Batch(X, np.full(B, -1, np.int32), np.arange(B, dtype=np.int32))
KEYS = jax.random.split(jax.random.key(0), B)


def make(latent=latents.DIAGONAL, **options):
  method = vae(
    mlp.encoder((8,), latent.num_outputs(D)),
    mlp.decoder((8,), SHAPE),
    likelihoods.bernoulli(),
    latent,
    D,
    num_levels=2,
    **options,
  )
  return method, method.init(jax.random.key(1), BATCH)


def loss(method, variables, step=0, keys=KEYS):
  return method.loss(variables, keys, BATCH, jnp.int32(step))


def test_loss_is_reconstruction_plus_weighted_kl():
  weight = schedules.linear_kl_weight(3.0, warmup_steps=10, start=5)
  method, variables = make(kl_weight=weight)
  for step, expected in ((0, 0.0), (5, 0.0), (10, 1.5), (15, 3.0), (100, 3.0)):
    terms = loss(method, variables, step)
    total = terms['reconstruction'] + expected * terms['kl']
    np.testing.assert_allclose(terms['loss'], total, rtol=1e-5)


def test_free_bits_leave_a_small_kl_alone():
  method, variables = make(free_bits=100.0)
  terms = loss(method, variables)
  np.testing.assert_allclose(terms['loss'], terms['reconstruction'] + 100.0 * D, rtol=1e-5)
  gradient = jax.grad(lambda p: loss(method, Variables(p))['loss'].sum())(variables.params)
  kl_free = jax.grad(lambda p: loss(method, Variables(p))['reconstruction'].sum())(variables.params)
  for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(kl_free), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('latent', latents.LATENTS.values(), ids=map('-'.join, latents.LATENTS))
def test_iwae_with_one_draw_is_the_elbo_without_its_closed_form(latent):
  """E[iwae, k = 1] = E[elbo]: 500 draws within 5 standard errors, false alarm rate 1e-5."""
  iwae, variables = make(latent, objective='iwae', num_draws=1)
  elbo, _ = make(latent)
  keys = jax.vmap(lambda key: jax.random.split(key, B))(jax.random.split(jax.random.key(2), 500))
  draw = jax.vmap(
    lambda k: loss(iwae, variables, keys=k)['loss'] - loss(elbo, variables, keys=k)['loss']
  )
  difference = np.asarray(draw(keys))
  error = difference.std(0) / np.sqrt(len(difference))
  assert np.all(np.abs(difference.mean(0)) < 5 * error + 1e-4)


def test_more_importance_samples_tighten_the_bound():
  """Burda et al. 2016, theorem 1, in expectation: means of 100 draws, far apart here."""
  keys = jax.vmap(lambda key: jax.random.split(key, B))(jax.random.split(jax.random.key(3), 100))
  bounds = []
  for k in (1, 5, 50):
    method, variables = make(objective='iwae', num_draws=k)
    wide = jax.tree.map(lambda p: 2 * p, variables)  # a posterior that is visibly wrong
    bounds.append(float(jnp.mean(jax.vmap(lambda q: loss(method, wide, keys=q)['loss'])(keys))))  # noqa: B023
  assert bounds[0] > bounds[1] > bounds[2]


def test_several_draws_average_the_reconstruction():
  """Two means of 64 draws, 16 examples, within 5 errors of a difference: false alarm rate 1e-5."""
  one, variables = make()
  many, _ = make(num_draws=64)
  keys = jax.vmap(lambda key: jax.random.split(key, B))(jax.random.split(jax.random.key(4), 64))
  single = jax.vmap(lambda k: loss(one, variables, keys=k)['reconstruction'])(keys)
  together = loss(many, variables)['reconstruction']
  error = single.std(0) / 8
  assert np.all(np.abs(together - single.mean(0)) < 7 * error + 1e-4)
  np.testing.assert_array_equal(loss(one, variables)['kl'], loss(many, variables)['kl'])


def test_a_shared_scale_is_one_parameter_and_a_fixed_one_is_none():
  decoder = with_shared_channels(mlp.decoder((8,), SHAPE), 1)
  params = decoder.init(jax.random.key(0), jnp.zeros((2, D)))
  assert params['shared'].shape == (1,)
  outputs = decoder.apply(params, jnp.ones((2, D)))
  assert outputs.shape == (2, 4, 4, 2)
  np.testing.assert_array_equal(outputs[..., 1], 0)
  fixed = likelihoods.discretized_normal(17, scale=0.3)
  assert fixed.num_outputs == 1
  x = np.full((2, *SHAPE), 5, np.uint8)
  mean = jnp.zeros((2, *SHAPE))
  exact = likelihoods.discretized_normal_log_prob(x, mean, np.log(0.3), 17)
  np.testing.assert_allclose(fixed.log_prob(mean, x), exact, rtol=1e-6)


def test_wrong_options_are_refused():
  with pytest.raises(ValueError, match="objective is 'elob'"):
    make(objective='elob')
  with pytest.raises(ValueError, match='num_draws is 0'):
    make(num_draws=0)
  with pytest.raises(ValueError, match='no KL term to weight'):
    make(objective='iwae', free_bits=1.0)


def test_the_decoder_sees_codes_of_mean_zero_and_variance_one_under_the_prior():
  for latent in latents.LATENTS.values():
    z = latent.prior_sample(jax.random.split(jax.random.key(0), 10_000), D)
    # The mean of 30,000 numbers of variance 1 within 5 of its standard errors, false alarm rate
    # 6e-7; their variance within 5 of a Gaussian's, which is more than that of the uniform.
    standardized = (z - latent.prior_mean) / latent.prior_scale
    np.testing.assert_allclose(jnp.mean(standardized), 0, atol=5 / 30_000**0.5)
    np.testing.assert_allclose(jnp.var(standardized), 1, atol=5 * (2 / 30_000) ** 0.5)
  method, variables = make(latents.BOX)
  decoder = mlp.decoder((8,), SHAPE)
  z = jnp.array([[0.0, 0.5, 1.0]])
  outputs = decoder.apply(variables.params['decoder'], jnp.array([[-1.0, 0.0, 1.0]]) * 3**0.5)
  x = np.ones((1, *SHAPE), np.uint8)
  expected = likelihoods.bernoulli_log_prob(x, outputs)
  np.testing.assert_allclose(method.code.log_likelihood(variables, x, z), expected, rtol=1e-5)


def test_real_numbers_reach_the_encoder_as_they_are_and_come_back_so():
  likelihood, x = likelihoods.normal(), np.random.default_rng(0).normal(size=(B, *SHAPE))
  batch = BATCH._replace(x=x.astype(np.float32))
  encoder, decoder = mlp.encoder((), 2 * D), mlp.decoder((), (4, 4, 2))
  method = vae(encoder, decoder, likelihood, latents.DIAGONAL, D, num_levels=None)
  variables = method.init(jax.random.key(1), batch)
  seen = latents.DIAGONAL.posterior(encoder.apply(variables.params['encoder'], batch.x))
  q = method.code.posterior(variables, batch.x)
  np.testing.assert_array_equal(q.mean, seen.mean)
  outputs = decoder.apply(variables.params['decoder'], q.mean)
  terms = method.code.log_likelihood(variables, batch.x, q.mean)
  np.testing.assert_allclose(terms, likelihood.log_prob(outputs, batch.x))
  decoded = method.code.decode(variables, KEYS, q.mean)
  np.testing.assert_array_equal(decoded, outputs[..., :1])
