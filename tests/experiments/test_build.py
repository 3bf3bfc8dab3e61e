"""Every choice that the schema offers can be built, and builds what it says."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from configs import compare
from experiments import build, schema
from vaediff import latents, reverse_process, time_sampling
from vaediff.errors import InputError
from vaediff.methods import coding, denoising_chain, diffusion, vae
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
  'learned': {'name': 'learned', 'T': 9, 'first': 7.5, 'last': -5.0},
}
VAE = {
  'name': 'vae',
  'latent_dim': 4,
  'objective': 'elbo',
  'num_draws': 1,
  'free_bits': 0.0,
  'sample_pixels': False,
}


def load(name: str) -> dict:
  return importlib.import_module(f'configs.{name}').get_config('tiny').to_dict()


def built(name: str, **sections) -> build.Experiment:
  """The tiny experiment of a config with other sections, or other fields of these."""
  config = load(name)
  for section, value in sections.items():
    is_changed = isinstance(value, dict) and 'name' not in value
    config[section] = config[section] | value if is_changed else value
  schema.check(config)
  return build.build(config)


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


def test_a_decoder_of_zeros_is_the_mean_of_the_binarised_training_pictures():
  experiment = built('digits_vae', data={'binarize': True}, likelihood={'name': 'bernoulli'})
  code, train = experiment.method.code, experiment.dataset.train
  batch = Batch(train.x[:1], train.label[:1], np.zeros(1, np.int32))
  variables = jax.tree.map(jnp.zeros_like, code.init(jax.random.key(0), batch))
  x, z = np.eye(64, dtype=np.uint8).reshape(64, 8, 8, 1), jnp.zeros((64, code.dim))
  # Of two pictures that differ in one pixel, the log-likelihoods differ by its logit.
  black = code.log_likelihood(variables, np.zeros_like(x), z)
  logits = code.log_likelihood(variables, x, z) - black
  mean = np.clip(train.x.mean(axis=0).ravel() / 16, 1e-3, 1 - 1e-3)
  np.testing.assert_allclose(jax.nn.sigmoid(logits), mean, atol=1e-5)


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


LEVELS = {
  'num_steps': 3,
  'spacing': 'time',
  'guidance': 0.0,
  'noise_scale': 1.0,
  'eta': 0.0,
}
SAMPLERS = {
  'ancestral': {'name': 'ancestral', **LEVELS, 'noise_scale': 0.0},
  'ddim': {'name': 'ddim', **LEVELS, 'eta': 1, 'guidance': 2.0},
  'dpm_solver_pp_2m': {'name': 'dpm_solver_pp_2m', **LEVELS, 'num_steps': 7, 'spacing': 'log_snr'},
  'heun': {'name': 'heun', **LEVELS, 'num_steps': 0},
}


@pytest.mark.parametrize('sampler', SAMPLERS)
def test_every_sampler(sampler):
  experiment = built(
    'digits_diffusion',
    sampler=SAMPLERS[sampler],
    method={'conditional': True, 'label_dropout': 0.1},
  )
  assert experiment.protocol['sampler']['num_steps'] == (SAMPLERS[sampler]['num_steps'] or 20)
  assert shapes(experiment)[1].shape == (4, 8, 8, 1)


CHOICES = {
  'prediction': reverse_process.PREDICTIONS,
  'variance': reverse_process.VARIANCES,
  'loss': diffusion.LOSSES,
  'times': time_sampling.SAMPLERS,
  'decoder': diffusion.DECODERS,
}


@pytest.mark.parametrize(
  ('field', 'value'), [(field, value) for field in CHOICES for value in CHOICES[field]]
)
def test_every_choice_of_diffusion(field, value):
  needed = {'hybrid': {'variance': 'interpolated'}, 'levels': {'prediction': 'levels'}}
  experiment = built('digits_diffusion', method={field: value, **needed.get(value, {})})
  loss, samples = shapes(experiment)
  assert (loss.shape, samples.shape) == ((4,), (4, 8, 8, 1))
  if field in ('variance', 'decoder'):
    assert experiment.protocol[field] == value
  assert (experiment.method.fit is not None) == (value == 'optimal')


@pytest.mark.parametrize('likelihood', diffusion.BOUNDS)
def test_every_bound_of_diffusion(likelihood):
  experiment = built('digits_diffusion', evaluation={'likelihood': likelihood})
  assert experiment.protocol['likelihood'] == likelihood
  assert experiment.method.log_likelihood_bound is not None


@pytest.mark.parametrize('likelihood', vae.BOUNDS)
def test_every_bound_of_a_vae(likelihood):
  experiment = built('digits_vae', evaluation={'likelihood': likelihood, 'num_draws': 5})
  assert experiment.protocol['likelihood'] == likelihood
  assert experiment.protocol.get('num_draws') == (None if likelihood == 'elbo' else 5)


@pytest.mark.parametrize('name', ['digits_vae', 'digits_autoencoder'])
@pytest.mark.parametrize('codes', coding.CODES)
def test_every_choice_of_codes(name, codes):
  experiment = built(name, sampler={'codes': codes, 'refinements': 2, 'refine_by': 'sample'})
  assert (experiment.method.fit is None) == (codes == 'prior')
  assert experiment.protocol['sampler']['codes'] == codes
  if codes == 'prior':
    loss, samples = shapes(experiment)
    assert (loss.shape, samples.shape) == ((4,), (4, 8, 8, 1))


@pytest.mark.parametrize('networks', denoising_chain.NETWORKS)
def test_every_denoising_chain(networks):
  experiment = built('digits_denoising_chain', method={'networks': networks})
  loss, samples = shapes(experiment)
  assert (loss.shape, samples.shape) == ((4,), (4, 8, 8, 1))
  assert experiment.protocol == {'T': 20}
  assert experiment.method.log_likelihood_bound is None


@pytest.mark.parametrize('coder', CODERS)
def test_every_classifier(coder):
  method = built('digits_classifier', trunk=CODERS[coder]).method
  assert method.sample is None

  def trace(key):
    batch = Batch(np.zeros((4, 8, 8, 1), np.uint8), np.zeros(4, int), np.arange(4))
    variables, keys = method.init(key, batch), jax.random.split(key, 4)
    return method.loss(variables, keys, batch, 0), method.statistics(variables, keys, batch)

  terms, statistics = jax.eval_shape(trace, jax.random.key(0))
  assert terms['loss'].shape == terms['accuracy'].shape == (4,)
  assert statistics['features'].shape == (4, 16)
  assert statistics['log_probs'].shape == (4, 10)


@pytest.mark.parametrize('system', compare.SYSTEMS)
def test_every_system_of_the_comparison(system):
  config = compare.get_config(f'digits_{system},tiny').to_dict()
  schema.check(config)
  loss, samples = shapes(build.build(config))
  assert (loss.shape, samples.shape) == ((4,), (4, 8, 8, 1))


def test_learning_rate_warms_up_then_decays():
  config = load('digits_vae')
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
  config = load('digits_vae')
  config['optimizer'] |= {'clip_norm': 1.0, 'eps': 1e3}
  clipped = build.build(config).optimizer
  config['optimizer'] |= {'clip_norm': 0.0}
  free = build.build(config).optimizer
  params = jnp.zeros(2)
  for gradient, factor in ((jnp.array([30.0, 40.0]), 50), (jnp.array([0.3, 0.4]), 1)):
    ours, _ = clipped.update(gradient, clipped.init(params), params)
    theirs, _ = free.update(gradient / factor, free.init(params), params)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_muon_is_that_of_optax():
  """Of matrices and kernels, tall and wide; of all else it is optax's Adam."""
  config = load('digits_vae')
  config['optimizer'] |= {'name': 'muon', 'decay': 'constant', 'warmup_steps': 0, 'clip_norm': 0.0}
  config['optimizer'] |= {'learning_rate': 0.1, 'weight_decay': 0.01}

  def numbers(params):
    return jax.tree.map(
      lambda p: contrib.MuonDimensionNumbers(range(p.ndim - 1), p.ndim - 1), params
    )

  b1, b2, eps = (config['optimizer'][name] for name in ('b1', 'b2', 'eps'))
  options = {'eps': eps, 'weight_decay': 0.01}
  reference = {
    'muon': contrib.muon(
      0.1,
      beta=b1,
      muon_weight_dimension_numbers=numbers,
      consistent_rms=0.2,
      **options,
    ),
    'adam': optax.adamw(0.1, b1, b2, **options),
  }
  theirs = optax.partition(
    reference, lambda params: jax.tree.map(lambda p: 'muon' if p.ndim > 1 else 'adam', params)
  )
  ours = build.build(config).optimizer
  shapes = {'tall': (12, 5), 'wide': (5, 12), 'kernel': (3, 3, 4, 6), 'zero': (4, 4), 'bias': (6,)}
  rng = np.random.default_rng(0)
  params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
  states = ours.init(params), theirs.init(params)
  for _ in range(3):
    grads = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    grads['zero'] *= 0
    own, own_state = ours.update(grads, states[0], params)
    other, other_state = theirs.update(grads, states[1], params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), own, other)
    params, states = optax.apply_updates(params, own), (own_state, other_state)


@pytest.mark.parametrize(('prior', 'posterior'), latents.LATENTS)
@pytest.mark.parametrize('scale', ['per_pixel', 'shared', 'fixed'])
def test_every_code_distribution_and_scale(prior, posterior, scale):
  experiment = built(
    'digits_vae',
    likelihood={'name': 'discretized_normal', 'scale': scale, 'fixed_scale': 0.2},
    method={**VAE, 'prior': prior, 'posterior': posterior},
    kl_weight={'name': 'cyclical', 'beta': 1.0, 'period': 10, 'ramp': 0.5},
  )
  assert shapes(experiment)[1].shape == (4, 8, 8, 1)


@pytest.mark.parametrize(
  ('message', 'name', 'sections'),
  [
    (
      r'not a multiple of [24]',
      'digits_diffusion',
      {'denoiser': {**DENOISERS['transformer'], 'width': 18}},
    ),
    (
      'has to fall',
      'digits_diffusion',
      {'schedule': {**SCHEDULES['linear_log_snr'], 'last': 9.0}},
    ),
    ("'hybrid' trains a learned variance", 'digits_diffusion', {'method': {'loss': 'hybrid'}}),
    (
      'a learned schedule goes with',
      'digits_diffusion',
      {'schedule': SCHEDULES['learned'], 'method': {'loss': 'simple'}},
    ),
    ('method.conditional is False', 'digits_diffusion', {'sampler': SAMPLERS['ddim']}),
    (
      'which heun does not take',
      'digits_diffusion',
      {'sampler': {'name': 'heun', **LEVELS, 'eta': 1}},
    ),
    ('evaluation.num_times is 20', 'digits_diffusion', {'evaluation': {'num_times': 20}}),
    (
      'sampler.num_steps is 21',
      'digits_diffusion',
      {'sampler': {**SAMPLERS['heun'], 'num_steps': 21}},
    ),
    ('does not go with', 'digits_vae', {'method': {'prior': 'uniform'}}),
    ('no KL term to weight', 'digits_vae', {'method': {'objective': 'iwae', 'free_bits': 0.5}}),
    ('likelihood.name is', 'digits_vae', {'data': {'binarize': True}}),
    ('has to be below training.num_steps', 'digits_vae', {'optimizer': {'warmup_steps': 20}}),
  ],
)
def test_what_contradicts_is_refused(message, name, sections):
  with pytest.raises(InputError, match=message):
    built(name, **sections)
