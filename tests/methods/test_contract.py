"""One contract for every method: what `methods.base.Method` promises, on tiny networks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaediff import latents, likelihoods, parallel, schedules
from vaediff.methods.autoencoder import autoencoder
from vaediff.methods.base import Batch, Method, Variables
from vaediff.methods.classifier import classifier
from vaediff.methods.denoising_chain import denoising_chain
from vaediff.methods.diffusion import diffusion, num_outputs
from vaediff.methods.vae import vae
from vaediff.networks import mlp, unet

B, SHAPE = 8, (8, 8, 1)


def make_vae(likelihood=None, latent=latents.DIAGONAL, **options) -> tuple[Method, int]:
  family = likelihood or likelihoods.discretized_logistic(17)
  encoder = mlp.encoder((16,), latent.num_outputs(3))
  decoder = mlp.decoder((16,), (*SHAPE[:-1], family.num_outputs))
  num_levels = 17 if likelihood is None else 2
  return vae(encoder, decoder, family, latent, 3, num_levels, **options), num_levels


def make_autoencoder(**options) -> tuple[Method, int]:
  likelihood = likelihoods.discretized_logistic(17)
  decoder = mlp.decoder((16,), (*SHAPE[:-1], likelihood.num_outputs))
  return autoencoder(mlp.encoder((16,), 3), decoder, likelihood, 3, 17, **options), 17


def make_diffusion(schedule=None, **options) -> tuple[Method, int]:
  network = mlp.denoiser(num_outputs(options.get('variance', 'fixed_large')), (32,), num_classes=3)
  return diffusion(network, schedule or schedules.cosine(10), SHAPE, 17, **options), 17


def make_chain(**options) -> tuple[Method, int]:
  network = mlp.denoiser(SHAPE[-1], (32,))
  return denoising_chain(network, schedules.cosine(10), SHAPE, 17, **options), 17


def make_classifier() -> tuple[Method, int]:
  return classifier(mlp.encoder((16,), 5), mlp.encoder((), 3), 17), 17


def make_unet_diffusion() -> tuple[Method, int]:
  network = unet.denoiser(SHAPE[-1], (8,), num_blocks=1, patch_size=2)
  return diffusion(network, schedules.cosine(10), SHAPE, 17, prediction='v', loss='bound'), 17


METHODS = {
  'autoencoder': make_autoencoder,
  'autoencoder-mixture': lambda: make_autoencoder(codes='mixture', num_components=2),
  'autoencoder-refined': lambda: make_autoencoder(codes='normal', refinements=2),
  'chain-shared': make_chain,
  'chain-separate': lambda: make_chain(networks='separate'),
  'classifier': make_classifier,
  'vae-importance_weighted': lambda: make_vae(bound='importance_weighted', num_bound_draws=7),
  'vae-annealed': lambda: make_vae(bound='annealed', num_temperatures=3),
  'vae-refined': lambda: make_vae(codes='normal', refinements=3, refine_by='sample'),
  'vae-bernoulli': lambda: make_vae(likelihoods.bernoulli(), sample_pixels=True),
  'vae-full-iwae': lambda: make_vae(latent=latents.FULL, objective='iwae', num_draws=3),
  'vae-box-draws': lambda: make_vae(latent=latents.BOX, num_draws=2, free_bits=0.5),
  'vae-warmup': lambda: make_vae(kl_weight=schedules.linear_kl_weight(2.0, warmup_steps=10)),
  'diffusion-eps-simple': lambda: make_diffusion(prediction='eps', variance='fixed_small'),
  'diffusion-x_0-bound': lambda: make_diffusion(prediction='x_0', loss='bound'),
  'diffusion-v-nearest_level': lambda: make_diffusion(
    prediction='v', decoder='nearest_level', num_times=3
  ),
  'diffusion-interpolated-hybrid': lambda: make_diffusion(variance='interpolated', loss='hybrid'),
  'diffusion-free-antithetic': lambda: make_diffusion(
    variance='free', loss='bound', times='antithetic'
  ),
  'diffusion-optimal-importance': lambda: make_diffusion(
    variance='optimal', times='importance', num_sampling_steps=4
  ),
  'diffusion-continuous': lambda: make_diffusion(
    prediction='v', loss='continuous', bound='continuous', num_times=3, sampler='heun'
  ),
  'diffusion-learned_schedule': lambda: make_diffusion(
    schedules.learned(10), loss='bound', decoder='nearest_level', bound='probability_flow'
  ),
  'diffusion-guided': lambda: make_diffusion(guidance=2.0, label_dropout=0.2, sampler='ddim'),
  'diffusion-unet': make_unet_diffusion,
}


class Case(NamedTuple):
  """A method with parameters away from their zeros at initialisation, and inputs for it.

  functions: the per-example functions that it has, as f(variables, keys, batch), jitted.
  """

  method: Method
  functions: dict
  variables: Variables
  keys: jax.Array
  batch: Batch


@pytest.fixture(
  params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in METHODS],
  scope='module',
)
def case(request):
  method, num_levels = METHODS[request.param]()
  x = np.random.default_rng(0).integers(0, num_levels, (B, *SHAPE)).astype(np.uint8)
  batch = Batch(x, np.arange(B, dtype=np.int32) % 3, np.arange(B, dtype=np.int32))
  # Shapes from the method, values from NumPy: compiling its init takes longer than the tests.
  shapes = jax.eval_shape(method.init, jax.random.key(0), batch)
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda leaf: (0.2 * rng.normal(size=leaf.shape)).astype(leaf.dtype), shapes.params
  )
  carry = (
    jax.jit(method.init)(jax.random.key(0), batch).carry if jax.tree.leaves(shapes.carry) else ()
  )
  functions = {
    'loss': lambda v, k, b: method.loss(v, k, b, jnp.int32(3)),
    'statistics': method.statistics,
    'log_likelihood_bound': method.log_likelihood_bound,
    'time_terms': method.time_terms,
    'reconstruct': method.reconstruct,
  }
  if method.sample is not None:
    functions['sample'] = lambda v, k, b: method.sample(v, k, b.label)
  if method.trajectory is not None:
    functions['trajectory'] = lambda v, k, b: method.trajectory(v, k, b.label)
  functions = {name: jax.jit(f) for name, f in functions.items() if f is not None}
  keys = jax.random.split(jax.random.key(2), B)
  variables = Variables(params, carry)
  if method.fit is not None:
    statistics = method.statistics(variables, keys, batch)
    variables = variables._replace(fitted=method.fit(jax.tree.map(np.asarray, statistics)))
  return Case(method, functions, variables, keys, batch)


def test_terms_are_unreduced_float32_and_finite(case):
  for name, total in (('loss', 'loss'), ('log_likelihood_bound', 'elbo')):
    if name in case.functions:
      terms = case.functions[name](case.variables, case.keys, case.batch)
      assert total in terms
      for term in terms.values():
        assert (term.shape, term.dtype) == ((B,), jnp.float32)
        assert np.all(np.isfinite(term))


def test_the_bound_is_the_sum_of_its_terms(case):
  if 'log_likelihood_bound' in case.functions:
    terms = case.functions['log_likelihood_bound'](case.variables, case.keys, case.batch)
    elbo = terms.pop('elbo')
    if not terms:
      return  # of the importance-weighted bound and the like there are no terms
    np.testing.assert_allclose(elbo, -sum(terms.values()), rtol=1e-5)


def test_parameters_are_float32_with_finite_gradients(case):
  def mean_loss(params):
    variables = case.variables._replace(params=params)
    return jnp.mean(case.method.loss(variables, case.keys, case.batch, 0)['loss'])

  gradients = jax.tree.leaves(jax.jit(jax.grad(mean_loss))(case.variables.params))
  assert all(leaf.dtype == jnp.float32 for leaf in gradients)
  assert all(np.all(np.isfinite(leaf)) for leaf in gradients)
  assert any(np.any(leaf != 0) for leaf in gradients)


def test_samples_and_reconstructions_are_levels(case):
  for name in {'sample', 'reconstruct'} & case.functions.keys():
    x = case.functions[name](case.variables, case.keys, case.batch)
    assert (x.shape, x.dtype) == ((B, *SHAPE), jnp.uint8)


def test_an_example_depends_on_itself_alone(case):
  """Permuting the batch permutes the outputs: no example sees another."""
  order = np.random.default_rng(1).permutation(B)
  permuted = Batch(*(field[order] for field in case.batch))
  for name, f in case.functions.items():
    there = jax.tree.map(lambda x: x[order], f(case.variables, case.keys, case.batch))
    assert_equal(there, f(case.variables, case.keys[order], permuted), name)


def test_jit_equals_pmap(case):
  devices = jax.devices()[:2]
  variables = parallel.replicate(case.variables, devices)
  batch, keys = parallel.shard(case.batch, devices), case.keys.reshape(2, -1)
  for name, f in case.functions.items():
    mapped = parallel.unshard(parallel.pmap(f, devices)(variables, keys, batch))
    assert_equal(f(case.variables, case.keys, case.batch), mapped, name)


def test_no_second_compilation(case):
  for f in case.functions.values():
    f(case.variables, case.keys, case.batch)
    f(case.variables, case.keys[::-1], Batch(case.batch.x[::-1], *case.batch[1:]))
    assert f._cache_size() == 1


def assert_equal(expected, actual, name):
  """Equal up to the order of floating-point sums; levels may flip where a mean lies between two."""
  for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(actual), strict=True):
    if a.dtype == np.uint8:
      assert np.mean(np.asarray(a) != np.asarray(b)) < 0.01, name
    else:
      np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4, err_msg=name)
