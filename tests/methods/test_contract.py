"""One contract for every method: what `methods.base.Method` promises, on tiny networks."""

from collections.abc import Callable
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
  outputs = num_outputs(
    options.get('prediction', 'eps'), options.get('variance', 'fixed_large'), 17
  )
  network = mlp.denoiser(outputs, (32,), num_classes=3)
  return diffusion(network, schedule or schedules.cosine(10), SHAPE, 17, **options), 17


def make_chain(**options) -> tuple[Method, int]:
  network = mlp.denoiser(SHAPE[-1], (32,))
  return denoising_chain(network, schedules.cosine(10), SHAPE, 17, **options), 17


def make_classifier() -> tuple[Method, int]:
  return classifier(mlp.encoder((16,), 5), mlp.encoder((), 3), 17), 17


def make_unet_diffusion() -> tuple[Method, int]:
  network = unet.denoiser(SHAPE[-1], (8,), num_blocks=1, patch_size=2)
  return diffusion(network, schedules.cosine(10), SHAPE, 17, prediction='v', loss='bound'), 17


# Each choice of each method is in one of them.
METHODS = {
  'autoencoder': make_autoencoder,
  'autoencoder-mixture-refined': lambda: make_autoencoder(
    codes='mixture', num_components=2, refinements=2
  ),
  'chain-shared': make_chain,
  'chain-separate': lambda: make_chain(networks='separate'),
  'classifier': make_classifier,
  'vae-annealed-warmup': lambda: make_vae(
    bound='annealed', num_temperatures=3, kl_weight=schedules.linear_kl_weight(2.0, 10)
  ),
  'vae-bernoulli-refined': lambda: make_vae(
    likelihoods.bernoulli(), sample_pixels=True, codes='normal', refinements=3, refine_by='sample'
  ),
  'vae-full-iwae': lambda: make_vae(
    latent=latents.FULL,
    objective='iwae',
    num_draws=3,
    bound='importance_weighted',
    num_bound_draws=7,
  ),
  'vae-box-draws': lambda: make_vae(latent=latents.BOX, num_draws=2, free_bits=0.5),
  'diffusion-eps-simple-guided': lambda: make_diffusion(
    variance='fixed_small', guidance=2.0, label_dropout=0.2, sampler='ddim'
  ),
  'diffusion-x_0-hybrid-interpolated': lambda: make_diffusion(
    prediction='x_0', loss='hybrid', variance='interpolated', sampler='dpm_solver_pp_2m'
  ),
  'diffusion-v-bound-free-antithetic': lambda: make_diffusion(
    prediction='v', loss='bound', variance='free', times='antithetic', decoder='nearest_level'
  ),
  'diffusion-optimal-importance': lambda: make_diffusion(
    variance='optimal', times='importance', num_sampling_steps=4
  ),
  'diffusion-continuous': lambda: make_diffusion(
    prediction='levels',
    decoder='levels',
    loss='continuous',
    bound='continuous',
    num_times=3,
    sampler='heun',
  ),
  'diffusion-learned_schedule': lambda: make_diffusion(
    schedules.learned(10), loss='bound', decoder='nearest_level', bound='probability_flow'
  ),
  'diffusion-unet': make_unet_diffusion,
}


class Case(NamedTuple):
  """A method with parameters away from their zeros at initialisation, and inputs for it.

  functions(variables, keys, batch) -> {name: what the per-example function of that name gives}.
  run: the same with the gradient of the mean loss beside it, jitted. Compiling takes nearly all of
    the time, and less for one program than for one of each function.
  outputs, gradients: what it gives for these inputs.
  """

  functions: Callable
  run: Callable
  variables: Variables
  keys: jax.Array
  batch: Batch
  outputs: dict
  gradients: dict


@pytest.fixture(
  params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in METHODS],
  scope='module',
)
def case(request):
  method, num_levels = METHODS[request.param]()
  x = np.random.default_rng(0).integers(0, num_levels, (B, *SHAPE)).astype(np.uint8)
  x[: B // 2] //= 2  # a mean over the batch is another one on each of two devices
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
  keys = jax.random.split(jax.random.key(2), B)
  variables = Variables(params, carry)
  if method.fit is not None:
    statistics = jax.jit(method.statistics)(variables, keys, batch)
    variables = variables._replace(fitted=method.fit(jax.tree.map(np.asarray, statistics)))
  of_batch = {
    'loss': lambda v, k, b: method.loss(v, k, b, jnp.int32(3)),
    'scores': method.scores,
    # Of a diffusion model they are its time terms.
    'statistics': None if method.statistics is method.time_terms else method.statistics,
    'log_likelihood_bound': method.log_likelihood_bound,
    'time_terms': method.time_terms,
    'reconstruct': method.reconstruct,
    'sample': method.sample and (lambda v, k, b: method.sample(v, k, b.label)),
    'trajectory': method.trajectory and (lambda v, k, b: method.trajectory(v, k, b.label)),
  }

  def functions(variables, keys, batch):
    return {name: f(variables, keys, batch) for name, f in of_batch.items() if f is not None}

  def run(variables, keys, batch):
    def mean_loss(params):
      terms = method.loss(variables._replace(params=params), keys, batch, jnp.int32(3))
      return jnp.mean(terms['loss'])

    return functions(variables, keys, batch), jax.grad(mean_loss)(variables.params)

  run = jax.jit(run)
  return Case(functions, run, variables, keys, batch, *run(variables, keys, batch))


def test_terms_are_unreduced_float32_and_finite(case):
  for name, total in (('loss', 'loss'), ('scores', 'loss'), ('log_likelihood_bound', 'elbo')):
    if name in case.outputs:
      terms = case.outputs[name]
      assert total in terms
      for term in terms.values():
        assert (term.shape, term.dtype) == ((B,), jnp.float32)
        assert np.all(np.isfinite(term))


def test_the_bound_is_the_sum_of_its_terms(case):
  if 'log_likelihood_bound' in case.outputs:
    terms = dict(case.outputs['log_likelihood_bound'])
    elbo = terms.pop('elbo')
    if not terms:
      return  # of the importance-weighted bound and the like there are no terms
    np.testing.assert_allclose(elbo, -sum(terms.values()), rtol=1e-5)


def test_parameters_are_float32_with_finite_gradients(case):
  gradients = jax.tree.leaves(case.gradients)
  assert all(leaf.dtype == jnp.float32 for leaf in gradients)
  assert all(np.all(np.isfinite(leaf)) for leaf in gradients)
  assert any(np.any(leaf != 0) for leaf in gradients)


def test_samples_and_reconstructions_are_levels(case):
  for name in {'sample', 'reconstruct'} & case.outputs.keys():
    x = case.outputs[name]
    assert (x.shape, x.dtype) == ((B, *SHAPE), jnp.uint8)


def test_an_example_depends_on_itself_alone(case):
  """Permuting the batch permutes the outputs: no example sees another."""
  order = np.random.default_rng(1).permutation(B)
  permuted = Batch(*(field[order] for field in case.batch))
  actual, gradients = case.run(case.variables, case.keys[order], permuted)
  for name, output in case.outputs.items():
    assert_equal(jax.tree.map(lambda x: x[order], output), actual[name], name)
  assert_equal(case.gradients, gradients, 'gradients')


def test_jit_equals_pmap(case):
  devices = jax.devices()[:2]
  variables = parallel.replicate(case.variables, devices)
  batch, keys = parallel.shard(case.batch, devices), case.keys.reshape(2, -1)
  mapped = parallel.unshard(parallel.pmap(case.functions, devices)(variables, keys, batch))
  for name, output in case.outputs.items():
    assert_equal(output, mapped[name], name)


def test_no_second_compilation(case):
  case.run(case.variables, case.keys[::-1], Batch(case.batch.x[::-1], *case.batch[1:]))
  assert case.run._cache_size() == 1


def assert_equal(expected, actual, name):
  """Equal up to the order of floating-point sums; levels may flip where a mean lies between two."""
  for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(actual), strict=True):
    if a.dtype == np.uint8:
      assert np.mean(np.asarray(a) != np.asarray(b)) < 0.01, name
    else:
      np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4, err_msg=name)
