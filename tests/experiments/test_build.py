"""Every choice that the schema offers can be built, and builds what it says."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import build, schema
from vaediff import latents
from vaediff.errors import InputError
from vaediff.methods.base import Batch

CODERS = {
  'mlp': {'name': 'mlp', 'widths': (), 'activation': 'tanh'},
  'conv': {'name': 'conv', 'widths': (8,), 'num_blocks': 1},
}
DENOISERS = {
  'mlp': {'name': 'mlp', 'widths': (16,), 'activation': 'silu'},
  'unet': {
    'name': 'unet',
    'widths': (8, 16),
    'num_blocks': 1,
    'patch_size': 2,
    'attention': False,
    'fourier_exponents': (3,),
    'remat': True,
  },
  'transformer': {
    'name': 'transformer',
    'width': 16,
    'num_blocks': 1,
    'num_heads': 2,
    'patch_size': 4,
    'remat': False,
  },
}
SCHEDULES = {
  'linear': {'name': 'linear', 'T': 9, 'beta_first': 0.01, 'beta_last': 0.3},
  'cosine': {'name': 'cosine', 'T': 9},
  'linear_log_snr': {'name': 'linear_log_snr', 'T': 9, 'first': 7.5, 'last': -5.0},
}


METHOD = {
  'name': 'vae',
  'latent_dim': 4,
  'objective': 'elbo',
  'num_draws': 1,
  'free_bits': 0.0,
  'sample_pixels': False,
}


def built(name: str, **sections) -> build.Experiment:
  config = importlib.import_module(f'configs.{name}').get_config('tiny').unlock()
  for section, value in sections.items():
    config[section] = ConfigDict(value) if isinstance(value, dict) else value
  schema.check(config.to_dict())
  return build.build(config.to_dict())


def shapes(experiment: build.Experiment):
  """The shapes of loss and samples, by tracing alone."""
  x = experiment.dataset.train.x[:4]
  batch = Batch(x, experiment.dataset.train.label[:4], np.arange(4, dtype=np.int32))
  keys = jax.random.split(jax.random.key(0), 4)

  def trace(key):
    variables = experiment.method.init(key, batch)
    terms = experiment.method.loss(variables, keys, batch, 0)
    return terms['loss'], experiment.method.sample(variables, keys, batch.label)

  return jax.eval_shape(trace, jax.random.key(0))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('coder', CODERS)
def test_every_coder(coder, dtype):
  experiment = built(
    'digits_vae', encoder=CODERS[coder], decoder=CODERS[coder], compute_dtype=dtype
  )
  loss, samples = shapes(experiment)
  assert (loss.shape, loss.dtype) == ((4,), jnp.float32)
  assert (samples.shape, samples.dtype) == ((4, 8, 8, 1), jnp.uint8)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('denoiser', DENOISERS)
def test_every_denoiser(denoiser, dtype):
  experiment = built('digits_diffusion', denoiser=DENOISERS[denoiser], compute_dtype=dtype)
  loss, samples = shapes(experiment)
  assert (loss.shape, loss.dtype) == ((4,), jnp.float32)
  assert (samples.shape, samples.dtype) == ((4, 8, 8, 1), jnp.uint8)


@pytest.mark.parametrize('schedule', SCHEDULES)
def test_every_schedule(schedule):
  experiment = built('digits_diffusion', schedule=SCHEDULES[schedule])
  assert experiment.protocol['T'] == 9
  assert shapes(experiment)[0].shape == (4,)


SAMPLERS = {
  'ancestral': {'name': 'ancestral', 'num_steps': 3, 'spacing': 'time', 'noise_scale': 0.0},
  'ddim': {'name': 'ddim', 'num_steps': 3, 'spacing': 'time', 'eta': 1},
  'dpm_solver_pp_2m': {'name': 'dpm_solver_pp_2m', 'num_steps': 7, 'spacing': 'log_snr'},
  'heun': {'name': 'heun', 'num_steps': 0, 'spacing': 'time'},
}


@pytest.mark.parametrize('sampler', SAMPLERS)
def test_every_sampler(sampler):
  experiment = built('digits_diffusion', sampler=SAMPLERS[sampler])
  assert experiment.protocol['sampler']['num_steps'] == (SAMPLERS[sampler]['num_steps'] or 20)
  assert shapes(experiment)[1].shape == (4, 8, 8, 1)


def test_learning_rate_warms_up_then_decays():
  config = importlib.import_module('configs.digits_vae').get_config('tiny').to_dict()
  config['optimizer'] |= {'warmup_steps': 4, 'learning_rate': 1.0, 'b1': 0.0, 'b2': 0.0}
  optimizer = build.build(config).optimizer
  params = jnp.ones(())
  state, rates = optimizer.init(params), []
  for _ in range(20):
    update, state = optimizer.update(jnp.ones(()), state, 0 * params)
    rates.append(-float(update))
  # Adam without memory moves by the rate itself.
  np.testing.assert_allclose(rates[:5], [0.2, 0.4, 0.6, 0.8, 1.0], rtol=1e-5)
  cosine = 0.5 * (1 + np.cos(np.pi * np.arange(16) / 16))
  np.testing.assert_allclose(rates[4:], cosine, rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped_to_the_norm():
  config = importlib.import_module('configs.digits_vae').get_config('tiny').to_dict()
  config['optimizer'] |= {'clip_norm': 1.0, 'eps': 1e3}
  clipped = build.build(config).optimizer
  config['optimizer'] |= {'clip_norm': 0.0}
  free = build.build(config).optimizer
  params = jnp.zeros(2)
  for gradient, factor in ((jnp.array([30.0, 40.0]), 50), (jnp.array([0.3, 0.4]), 1)):
    ours, _ = clipped.update(gradient, clipped.init(params), params)
    theirs, _ = free.update(gradient / factor, free.init(params), params)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize(('prior', 'posterior'), latents.LATENTS)
@pytest.mark.parametrize('scale', ['per_pixel', 'shared', 'fixed'])
def test_every_code_distribution_and_scale(prior, posterior, scale):
  experiment = built(
    'digits_vae',
    likelihood={'name': 'discretized_normal', 'scale': scale, 'fixed_scale': 0.2},
    method={**METHOD, 'prior': prior, 'posterior': posterior},
    kl_weight={'name': 'cyclical', 'beta': 1.0, 'period': 10, 'ramp': 0.5},
  )
  assert shapes(experiment)[1].shape == (4, 8, 8, 1)


def test_what_contradicts_is_refused():
  with pytest.raises(InputError, match=r'not a multiple of [24]'):
    built('digits_diffusion', denoiser={**DENOISERS['transformer'], 'width': 18})
  with pytest.raises(InputError, match='has to fall'):
    built('digits_diffusion', schedule={**SCHEDULES['linear_log_snr'], 'last': 9.0})
