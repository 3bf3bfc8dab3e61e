"""From a config to the parts of an experiment: where the parts meet, and where it is read."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import schema
from vaediff import data, latents, likelihoods, muon, schedules
from vaediff.errors import InputError
from vaediff.methods.autoencoder import autoencoder
from vaediff.methods.base import Method
from vaediff.methods.classifier import classifier
from vaediff.methods.denoising_chain import denoising_chain
from vaediff.methods.diffusion import diffusion
from vaediff.methods.diffusion import num_outputs as diffusion_outputs
from vaediff.methods.vae import vae
from vaediff.networks import (
  Network,
  conv,
  mlp,
  transformer,
  unet,
  with_level_logits,
  with_offsets,
  with_shared_channels,
)

# Fields of the section `method` that choose the latent family, or the method itself.
LATENT_FIELDS = ('name', 'prior', 'posterior')
# Of diffusion, those that choose the network's inputs and outputs.
NETWORK_FIELDS = ('name', 'conditional', 'num_level_features')


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
  builders = {
    'autoencoder': _autoencoder,
    'denoising_chain': _denoising_chain,
    'vae': _vae,
    'diffusion': _diffusion,
    'classifier': _classifier,
  }
  method, protocol = builders[config['method']['name']](config, dataset, num_levels)
  if method.fit is not None:
    _check_fit(config, len(dataset.train.x))
  return Experiment(method, _optimizer(config), dataset, observe, num_levels, protocol)


def _check_fit(config: Mapping, num_train: int) -> None:
  """Raises InputError where there are fewer examples than the distribution of codes is fitted to.

  A method without codes fits to any number.
  """
  codes = config['sampler'].get('codes')
  least = {'normal': 2, 'mixture': max(2, config['sampler'].get('num_components', 0))}.get(codes, 1)
  num_examples = config['fit']['num_examples']
  if min(num_examples or num_train, num_train) < least:
    raise InputError(
      f'fit.num_examples is {num_examples} (0 is all {num_train}); sampler.codes {codes} takes at '
      f'least {least}, so give more examples or a smaller sampler.num_components'
    )


def _autoencoder(config: Mapping, dataset: data.Dataset, num_levels: int):
  method = config['method']
  networks = _coders(config, dataset, num_levels, method['latent_dim'])
  functions = autoencoder(
    *networks,
    method['latent_dim'],
    num_levels,
    method['sample_pixels'],
    **config['sampler'],
  )
  return functions, {'sampler': config['sampler']}


def _vae(config: Mapping, dataset: data.Dataset, num_levels: int):
  method, evaluation = config['method'], config['evaluation']
  latent = latents.LATENTS.get((method['prior'], method['posterior']))
  if latent is None:
    pairs = ', '.join(f'{prior} with {posterior}' for prior, posterior in latents.LATENTS)
    raise InputError(
      f'method.prior {method["prior"]} does not go with method.posterior {method["posterior"]}; '
      f'the pairs are {pairs}'
    )
  try:
    functions = vae(
      *_coders(config, dataset, num_levels, latent.num_outputs(method['latent_dim'])),
      latent,
      num_levels=num_levels,
      kl_weight=_kl_weight(config['kl_weight']),
      bound=evaluation['likelihood'],
      num_bound_draws=evaluation['num_draws'],
      num_temperatures=evaluation['num_temperatures'],
      **{name: value for name, value in method.items() if name not in LATENT_FIELDS},
      **config['sampler'],
    )
  except ValueError as error:
    raise InputError(f'method: {error}') from error
  protocol = {'likelihood': evaluation['likelihood'], 'sampler': config['sampler']}
  if evaluation['likelihood'] != 'elbo':
    protocol['num_draws'] = evaluation['num_draws']
  if evaluation['likelihood'] == 'annealed':
    protocol['num_temperatures'] = evaluation['num_temperatures']
  return functions, protocol


def _coders(config: Mapping, dataset: data.Dataset, num_levels: int, num_codes: int):
  """Encoder, decoder and likelihood; the encoder has num_codes outputs."""
  height, width, channels = dataset.train.x.shape[1:]
  likelihood, num_shared = _likelihood(config['likelihood'], num_levels)
  num_channels = (likelihood.num_outputs - num_shared) * channels
  encoder = _coder(config, 'encoder', num_codes, dataset)
  decoder = _coder(config, 'decoder', (height, width, num_channels))
  if config['likelihood']['name'] == 'bernoulli':
    mean = _mean_of_bits(dataset)
    encoder = with_offsets(encoder, input_offset=1 - 2 * mean)
    decoder = with_offsets(decoder, output_offset=np.log(mean) - np.log1p(-mean))
  if num_shared:
    decoder = with_shared_channels(decoder, num_shared * channels)
  return encoder, decoder, likelihood


def _mean_of_bits(dataset: data.Dataset) -> np.ndarray:
  """The mean of the binarised training pictures [H, W, C], clipped to [0.001, 0.999].

  Most pixels of binary pictures hardly change, and a VAE need not learn that first: the encoder
  sees pictures less their mean, and the logits of the decoder begin at its, as those of Burda et
  al. (2016) do.
  """
  mean = np.mean(dataset.train.x, axis=0, dtype=np.float64) / (dataset.num_levels - 1)
  return np.clip(mean, 1e-3, 1 - 1e-3)


def _coder(config: Mapping, section: str, output, dataset: data.Dataset | None = None) -> Network:
  """The network of a section: a decoder for the shape of a picture, else an encoder of the data."""
  arguments = dict(config[section])
  family = {'mlp': mlp, 'conv': conv}[arguments.pop('name')]
  dtype = jnp.dtype(config['compute_dtype'])
  try:
    if isinstance(output, tuple):
      return family.decoder(output_shape=output, dtype=dtype, **arguments)
    network = family.encoder(num_outputs=output, dtype=dtype, **arguments)
    network.check(_inputs(dataset)[0])
  except ValueError as error:
    raise InputError(f'{section}: {error}') from error
  return network


def _inputs(dataset: data.Dataset) -> tuple[jax.ShapeDtypeStruct, ...]:
  """x_t, log_snr_t and label of one example, for a denoiser; an encoder takes the first."""
  x_t = jax.ShapeDtypeStruct((1, *dataset.train.x.shape[1:]), jnp.float32)
  return x_t, jax.ShapeDtypeStruct((1,), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)


def _classifier(config: Mapping, dataset: data.Dataset, num_levels: int):
  max_shift, (height, width) = config['method']['max_shift'], dataset.train.x.shape[1:3]
  if max_shift >= min(height, width):
    raise InputError(
      f'method.max_shift is {max_shift}, which moves pictures of {height}x{width} out of sight; it '
      f'is below {min(height, width)}'
    )
  trunk = _coder(config, 'trunk', config['method']['num_features'], dataset)
  head = mlp.encoder((), dataset.num_classes, dtype=jnp.dtype(config['compute_dtype']))
  return classifier(trunk, head, num_levels, max_shift), {}


def _likelihood(config: Mapping, num_levels: int) -> tuple[likelihoods.Likelihood, int]:
  """The likelihood, and how many of its outputs all pixels share."""
  name = config['name']
  if (name == 'bernoulli') != (num_levels == 2):
    raise InputError(
      f'likelihood.name is {name} for data of {num_levels} levels; bernoulli is for two levels '
      '(data.binarize=True), the discretized ones are for more'
    )
  if name == 'bernoulli':
    return likelihoods.bernoulli(), 0
  scale = config['fixed_scale'] if config['scale'] == 'fixed' else None
  return getattr(likelihoods, name)(num_levels, scale), int(config['scale'] == 'shared')


def _kl_weight(config: Mapping) -> Callable | None:
  """The weight of the KL as a function of the step; None where it is always 1."""
  arguments = dict(config)
  name = arguments.pop('name')
  if name == 'linear' and arguments == {'beta': 1.0, 'warmup_steps': 0, 'start': 0}:
    return None
  try:
    return getattr(schedules, f'{name}_kl_weight')(**arguments)
  except ValueError as error:
    raise InputError(f'kl_weight: {error}') from error


def _diffusion(config: Mapping, dataset: data.Dataset, num_levels: int):
  method, evaluation = config['method'], config['evaluation']
  log_snr = _schedule(config['schedule'])
  T, num_times = config['schedule']['T'], evaluation['num_times']
  if evaluation['likelihood'] == 'bound' and num_times > T - 1:
    raise InputError(
      f'evaluation.num_times is {num_times}; it is at most schedule.T - 1 = {T - 1}, and 0 for all'
    )
  sampler = config['sampler']
  num_sampling_steps = sampler['num_steps'] or T
  if num_sampling_steps > T:
    raise InputError(
      f'sampler.num_steps is {num_sampling_steps}; it is at most schedule.T = {T}, and 0 for all'
    )
  if sampler['guidance'] and not method['conditional']:
    raise InputError(
      f'sampler.guidance is {sampler["guidance"]}, and method.conditional is False; guidance is '
      'for a model that knows the labels'
    )
  if sampler['guidance'] and not method['label_dropout']:
    raise InputError(
      f'sampler.guidance is {sampler["guidance"]}, and method.label_dropout is 0; guidance is for '
      'a model that was also trained without labels: make method.label_dropout about 0.1'
    )
  if method['label_dropout'] and not method['conditional']:
    raise InputError(
      f'method.label_dropout is {method["label_dropout"]}, and method.conditional is False; there '
      'are no labels to drop: make it 0 or method.conditional True'
    )
  for path, value in (
    ('method.loss', method['loss']),
    ('evaluation.likelihood', evaluation['likelihood']),
  ):
    if T == 1 and value in ('continuous', 'probability_flow'):
      raise InputError(
        f'{path} is {value}, an integral from t = 1 to schedule.T = 1; give schedule.T at least 2'
      )
  try:
    functions = diffusion(
      _diffusion_network(config, dataset),
      log_snr,
      dataset.train.x.shape[1:],
      num_levels,
      bound=evaluation['likelihood'],
      num_times=num_times or None,
      divergence=evaluation['divergence'],
      sampler=sampler['name'],
      num_sampling_steps=num_sampling_steps,
      spacing=sampler['spacing'],
      guidance=sampler['guidance'],
      sampler_options=_sampler_options(sampler),
      **{name: value for name, value in method.items() if name not in NETWORK_FIELDS},
    )
  except ValueError as error:
    raise InputError(f'method: {error}') from error
  protocol = {
    'likelihood': evaluation['likelihood'],
    'T': T,
    'num_times': num_times or T - 1,
    'clip_x_0': method['clip_x_0'],
    'variance': method['variance'],
    'decoder': method['decoder'],
    'conditional': method['conditional'],
    'sampler': {**config['sampler'], 'num_steps': num_sampling_steps},
  }
  return functions, protocol


def _sampler_options(sampler: Mapping) -> dict:
  """What the sampler takes beside the levels. Raises InputError where it is given another's."""
  neutral = {'noise_scale': 1.0, 'eta': 0.0}
  options = {'ancestral': 'noise_scale', 'ddim': 'eta', 'dpm_solver_pp_2m': 'eta'}
  own = options.get(sampler['name'])
  for name, value in neutral.items():
    if name != own and sampler[name] != value:
      raise InputError(
        f'sampler.{name} is {sampler[name]}, which {sampler["name"]} does not take; use {value}'
      )
  return {own: sampler[own]} if own else {}


def _denoising_chain(config: Mapping, dataset: data.Dataset, num_levels: int):
  functions = denoising_chain(
    _denoiser(config, dataset, 1, is_conditional=False),
    _schedule(config['schedule']),
    dataset.train.x.shape[1:],
    num_levels,
    config['method']['networks'],
  )
  return functions, {'T': config['schedule']['T']}


def _schedule(config: Mapping):
  arguments = dict(config)
  name = arguments.pop('name')
  try:
    schedule = getattr(schedules, name)(**arguments)
  except ValueError as error:
    raise InputError(f'schedule: {error}') from error
  # A learned one begins about there.
  table = schedules.linear_log_snr(**arguments) if name == 'learned' else schedule
  table = np.float32(table[1:])
  if np.abs(table).max() > schema.LARGEST_LOG_SNR:
    raise InputError(
      f'schedule {name} has the log-SNR {table[0]:g} at t = 1 and {table[-1]:g} at t = T; beyond '
      f'{schema.LARGEST_LOG_SNR} in size, float32 has not the range: make the steps larger at the '
      'one end or smaller at the other'
    )
  if np.any(np.diff(table) >= 0):
    t = int(np.argmax(np.diff(table) >= 0)) + 1
    raise InputError(
      f'schedule {name} has the log-SNR {table[t - 1]:g} at t = {t} and at {t + 1}, in float32; it '
      'has to fall: make the steps larger or schedule.T smaller'
    )
  return schedule


def _diffusion_network(config: Mapping, dataset: data.Dataset) -> Network:
  """The denoiser, with the outputs that the prediction and the variance ask for."""
  method, num_features = config['method'], config['method']['num_level_features']
  num_outputs = diffusion_outputs(method['prediction'], method['variance'], num_features)
  network = _denoiser(config, dataset, num_outputs, method['conditional'])
  if method['prediction'] != 'levels':
    return network
  frequencies = data.level_frequencies(dataset.train.x, dataset.num_levels)
  if config['data']['binarize']:
    ones = frequencies @ np.linspace(0, 1, dataset.num_levels)
    frequencies = np.array([1 - ones, ones])
  return with_level_logits(network, np.log(frequencies), dataset.train.x.shape[-1], num_features)


def _denoiser(
  config: Mapping, dataset: data.Dataset, num_outputs: int, is_conditional: bool
) -> Network:
  """The denoiser, with num_outputs channels for each channel of the data."""
  arguments = dict(config['denoiser'])
  denoiser = {'mlp': mlp, 'unet': unet, 'transformer': transformer}[arguments.pop('name')].denoiser
  try:
    network = denoiser(
      num_outputs * dataset.train.x.shape[-1],
      num_classes=dataset.num_classes if is_conditional else 0,
      dtype=jnp.dtype(config['compute_dtype']),
      **arguments,
    )
    network.check(*_inputs(dataset))
  except ValueError as error:
    raise InputError(f'denoiser: {error}') from error
  return network


def _optimizer(config: Mapping) -> optax.GradientTransformation:
  """Adam or Muon (with decoupled weight decay) after gradient clipping; warm-up, then the decay."""
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
  update = {'adam': _adam, 'muon': _muon}[optimizer['name']](rate, optimizer)
  if optimizer['clip_norm'] == 0:
    return update
  return optax.chain(optax.clip_by_global_norm(optimizer['clip_norm']), update)


def _adam(rate, optimizer: Mapping) -> optax.GradientTransformation:
  return optax.adamw(
    rate,
    b1=optimizer['b1'],
    b2=optimizer['b2'],
    eps=optimizer['eps'],
    weight_decay=optimizer['weight_decay'],
  )


def _muon(rate, optimizer: Mapping) -> optax.GradientTransformation:
  """Muon (Jordan et al. 2024) for matrices and kernels of convolutions, Adam for all else.

  The orthogonal updates are scaled to the size that Adam's have (Liu et al. 2025, section 2.2), so
  that both go with one learning rate.
  """

  orthogonal = optax.chain(
    muon.scale_by_muon(optimizer['b1'], optimizer['eps']),
    optax.add_decayed_weights(optimizer['weight_decay']),
    optax.scale_by_learning_rate(rate),
  )

  def kinds(params):
    return jax.tree.map(lambda p: 'muon' if p.ndim >= 2 else 'adam', params)

  return optax.partition({'muon': orthogonal, 'adam': _adam(rate, optimizer)}, kinds)
