"""From a config to the parts of an experiment: where the parts meet, and where it is read."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import optax

from vaediff import data, likelihoods, schedules
from vaediff.errors import InputError
from vaediff.methods.base import Method
from vaediff.methods.diffusion import diffusion
from vaediff.methods.vae import num_posterior_outputs, vae
from vaediff.networks import Network, conv, mlp, transformer, unet


class Experiment(NamedTuple):
  """What a config stands for.

  observe(keys [B], x) -> x: how an example is drawn from its stored form, each time anew.
  num_levels: of the data as the method sees them, after `observe`.
  protocol: how the bound is computed, for results.json.
  """

  method: Method
  optimizer: optax.GradientTransformation
  dataset: data.Dataset
  observe: Callable
  num_levels: int
  protocol: dict


def build(config: Mapping) -> Experiment:
  """Builds the experiment of a config that `schema.check` accepts.

  Raises InputError where fields contradict each other or the data are not in order.
  """
  dataset = data.load(
    config['data']['name'], config['data']['data_dir'], config['evaluation']['split']
  )
  num_levels, observe = dataset.num_levels, lambda keys, x: x
  if config['data']['binarize']:
    num_levels, observe = 2, lambda keys, x: data.binarize(keys, x, dataset.num_levels)
  builders = {'vae': _vae, 'diffusion': _diffusion}
  method, protocol = builders[config['method']['name']](config, dataset, num_levels)
  return Experiment(method, _optimizer(config), dataset, observe, num_levels, protocol)


def _vae(config: Mapping, dataset: data.Dataset, num_levels: int):
  method = config['method']
  if (method['likelihood'] == 'bernoulli') != (num_levels == 2):
    raise InputError(
      f'method.likelihood is {method["likelihood"]} for data of {num_levels} levels; bernoulli is '
      'for two levels (data.binarize=True), the discretized ones are for more'
    )
  likelihood = {
    'bernoulli': likelihoods.bernoulli,
    'discretized_normal': lambda: likelihoods.discretized_normal(num_levels),
    'discretized_logistic': lambda: likelihoods.discretized_logistic(num_levels),
  }[method['likelihood']]()
  height, width, channels = dataset.train.x.shape[1:]
  output_shape = (height, width, likelihood.num_outputs * channels)
  encoder, decoder = dict(config['encoder']), dict(config['decoder'])
  coders = {'mlp': mlp, 'conv': conv}
  dtype = jnp.dtype(config['compute_dtype'])
  method_functions = vae(
    coders[encoder.pop('name')].encoder(
      num_outputs=num_posterior_outputs(method['latent_dim']), dtype=dtype, **encoder
    ),
    coders[decoder.pop('name')].decoder(output_shape=output_shape, dtype=dtype, **decoder),
    likelihood,
    latent_dim=method['latent_dim'],
    num_levels=num_levels,
    sample_pixels=method['sample_pixels'],
  )
  return method_functions, {'draws_of_z': 1}


def _diffusion(config: Mapping, dataset: data.Dataset, num_levels: int):
  method, event_shape = config['method'], dataset.train.x.shape[1:]
  log_snr = _schedule(config['schedule'])
  T, num_times = len(log_snr) - 1, config['evaluation']['num_times']
  if num_times > T - 1:
    raise InputError(
      f'evaluation.num_times is {num_times}; it is at most schedule.T - 1 = {T - 1}, and 0 for all'
    )
  method_functions = diffusion(
    _denoiser(config, event_shape[-1]),
    log_snr,
    event_shape,
    num_levels,
    prediction=method['prediction'],
    variance=method['variance'],
    loss=method['loss'],
    decoder=method['decoder'],
    clip_x_0=method['clip_x_0'],
    num_times=num_times or None,
  )
  protocol = {
    'T': T,
    'times_per_example': (num_times or T - 1) + 1,
    'clip_x_0': method['clip_x_0'],
    'variance': method['variance'],
    'decoder': method['decoder'],
  }
  return method_functions, protocol


def _schedule(config: Mapping):
  arguments = dict(config)
  name = arguments.pop('name')
  try:
    return getattr(schedules, name)(**arguments)
  except ValueError as error:
    raise InputError(f'schedule.{error}') from error


def _denoiser(config: Mapping, num_channels: int) -> Network:
  arguments = dict(config['denoiser'])
  denoiser = {'mlp': mlp, 'unet': unet, 'transformer': transformer}[arguments.pop('name')].denoiser
  try:
    return denoiser(num_channels, dtype=jnp.dtype(config['compute_dtype']), **arguments)
  except ValueError as error:
    raise InputError(f'denoiser: {error}') from error


def _optimizer(config: Mapping) -> optax.GradientTransformation:
  """Adam (with decoupled weight decay) after gradient clipping; linear warm-up, then the decay."""
  optimizer, num_steps = config['optimizer'], config['training']['num_steps']
  peak, warmup_steps = optimizer['learning_rate'], optimizer['warmup_steps']
  if warmup_steps >= num_steps:
    raise InputError(
      f'optimizer.warmup_steps is {warmup_steps}; it has to be below training.num_steps = '
      f'{num_steps}'
    )
  after = (
    optax.cosine_decay_schedule(peak, num_steps - warmup_steps)
    if optimizer['decay'] == 'cosine'
    else optax.constant_schedule(peak)
  )
  # Step n of the warm-up has (n + 1) / (warmup_steps + 1) of the rate: not one step is lost at 0.
  first = peak / (warmup_steps + 1)
  rate = optax.join_schedules(
    [optax.linear_schedule(first, peak, warmup_steps), after], [warmup_steps]
  )
  adam = optax.adamw(
    rate,
    b1=optimizer['b1'],
    b2=optimizer['b2'],
    eps=optimizer['eps'],
    weight_decay=optimizer['weight_decay'],
  )
  if optimizer['clip_norm'] == 0:
    return adam
  return optax.chain(optax.clip_by_global_norm(optimizer['clip_norm']), adam)
