"""One contract for every method: what `methods.base.Method` promises, on tiny networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaediff import likelihoods, parallel, schedules
from vaediff.methods import diffusion as diffusion_module
from vaediff.methods.base import Batch, Method, Variables
from vaediff.methods.diffusion import diffusion
from vaediff.methods.vae import num_posterior_outputs, vae
from vaediff.networks import mlp, unet

B, SHAPE = 8, (8, 8, 1)


def make_vae(likelihood: str) -> tuple[Method, int]:
  family, num_levels = {
    'bernoulli': (likelihoods.bernoulli(), 2),
    'discretized_normal': (likelihoods.discretized_normal(17), 17),
    'discretized_logistic': (likelihoods.discretized_logistic(17), 17),
  }[likelihood]
  encoder = mlp.encoder((16,), num_posterior_outputs(3))
  decoder = mlp.decoder((16,), (*SHAPE[:-1], family.num_outputs))
  return vae(encoder, decoder, family, 3, num_levels, sample_pixels=True), num_levels


def make_diffusion(**options) -> tuple[Method, int]:
  network = mlp.denoiser(SHAPE[-1], (32,))
  return diffusion(network, schedules.cosine(10), SHAPE, 17, **options), 17


def make_unet_diffusion() -> tuple[Method, int]:
  network = unet.denoiser(SHAPE[-1], (8,), num_blocks=1, patch_size=2)
  return diffusion(network, schedules.cosine(10), SHAPE, 17, prediction='v', loss='bound'), 17


METHODS = {
  'vae-bernoulli': lambda: make_vae('bernoulli'),
  'vae-discretized_normal': lambda: make_vae('discretized_normal'),
  'vae-discretized_logistic': lambda: make_vae('discretized_logistic'),
  **{
    f'diffusion-{prediction}-{variance}-{loss}': (
      lambda p=prediction, v=variance, l=loss: make_diffusion(prediction=p, variance=v, loss=l)  # noqa: E741
    )
    for prediction in diffusion_module.PREDICTIONS
    for variance, loss in (('fixed_small', 'simple'), ('fixed_large', 'bound'))
  },
  'diffusion-nearest_level': lambda: make_diffusion(decoder='nearest_level', num_times=3),
  'diffusion-unet': make_unet_diffusion,
}


@pytest.fixture(params=METHODS, scope='module')
def case(request):
  """(method, variables, batch, keys): parameters away from their zeros at initialisation."""
  method, num_levels = METHODS[request.param]()
  x = np.random.default_rng(0).integers(0, num_levels, (B, *SHAPE)).astype(np.uint8)
  batch = Batch(x, np.full(B, -1, np.int32), np.arange(B, dtype=np.int32))
  variables = jax.jit(method.init)(jax.random.key(0), batch)
  leaves, tree = jax.tree.flatten(variables.params)
  noise = jax.random.split(jax.random.key(1), len(leaves))
  leaves = [p + 0.05 * jax.random.normal(k, p.shape) for p, k in zip(leaves, noise)]
  params = jax.tree.unflatten(tree, leaves)
  keys = jax.random.split(jax.random.key(2), B)
  return method, Variables(params, variables.carry), batch, keys


def functions(method: Method):
  """The per-example functions that a method has, as f(variables, keys, batch)."""
  found = {
    'loss': lambda v, k, b: method.loss(v, k, b, jnp.int32(3)),
    'sample': lambda v, k, b: method.sample(v, k, b.label),
  }
  for name in ('log_likelihood_bound', 'reconstruct'):
    if getattr(method, name) is not None:
      found[name] = getattr(method, name)
  return found


def test_terms_are_unreduced_float32_and_finite(case):
  method, variables, batch, keys = case
  for name in ('loss', 'log_likelihood_bound'):
    terms = functions(method)[name](variables, keys, batch)
    assert {'loss': 'loss', 'log_likelihood_bound': 'elbo'}[name] in terms
    for term in terms.values():
      assert (term.shape, term.dtype) == ((B,), jnp.float32)
      assert np.all(np.isfinite(term))


def test_the_bound_is_the_sum_of_its_terms(case):
  method, variables, batch, keys = case
  terms = method.log_likelihood_bound(variables, keys, batch)
  elbo = terms.pop('elbo')
  np.testing.assert_allclose(elbo, -sum(terms.values()), rtol=1e-5)


def test_parameters_are_float32_and_every_one_has_a_finite_gradient(case):
  method, variables, batch, keys = case
  loss = lambda params: jnp.mean(
    method.loss(Variables(params, variables.carry), keys, batch, 0)['loss']
  )
  for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(variables.params)):
    assert leaf.dtype == jnp.float32
    assert np.all(np.isfinite(leaf))


def test_samples_and_reconstructions_are_levels(case):
  method, variables, batch, keys = case
  for name in ('sample', 'reconstruct'):
    if name in functions(method):
      x = jax.jit(functions(method)[name])(variables, keys, batch)
      assert (x.shape, x.dtype) == ((B, *SHAPE), jnp.uint8)


def test_an_example_depends_on_itself_alone(case):
  """Permuting the batch permutes the outputs: no example sees another."""
  method, variables, batch, keys = case
  order = np.random.default_rng(1).permutation(B)
  for name, f in functions(method).items():
    f = jax.jit(f)
    there = jax.tree.map(lambda x: x[order], f(variables, keys, batch))
    here = f(variables, keys[order], Batch(*(field[order] for field in batch)))
    assert_equal(there, here, name)


def test_jit_equals_pmap(case):
  method, variables, batch, keys = case
  devices = jax.devices()[:4]
  replicated, shards = parallel.replicate(variables, devices), parallel.shard(batch, devices)
  key_shards = keys.reshape(4, -1)
  for name, f in functions(method).items():
    mapped = parallel.pmap(f, devices)(replicated, key_shards, shards)
    assert_equal(jax.jit(f)(variables, keys, batch), parallel.unshard(mapped), name)


def test_no_second_compilation(case):
  method, variables, batch, keys = case
  for f in functions(method).values():
    compiled = jax.jit(f)
    compiled(variables, keys, batch)
    compiled(variables, keys[::-1], Batch(batch.x[::-1], *batch[1:]))
    assert compiled._cache_size() == 1


def assert_equal(expected, actual, name):
  """Equal up to the order of floating-point sums; levels may flip where a mean lies between two."""
  for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(actual), strict=True):
    if a.dtype == np.uint8:
      assert np.mean(np.asarray(a) != np.asarray(b)) < 0.01, name
    else:
      np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4, err_msg=name)
