"""What the configs share: the fields with their usual values, and a family for each method.

A config file calls one of these, states what differs and returns `finish(config, variant)`.
"""

from ml_collections import ConfigDict

from vaediff.errors import InputError


def vae(dataset: str) -> ConfigDict:
  """A VAE with MLP encoder and decoder."""
  config = _base(dataset)
  config.method = ConfigDict(
    {
      'name': 'vae',
      'latent_dim': 20,
      'prior': 'normal',
      'posterior': 'diagonal',
      'objective': 'elbo',
      'num_draws': 1,
      'free_bits': 0.0,
      'sample_pixels': False,
    }
  )
  config.likelihood = ConfigDict(
    {'name': 'discretized_logistic', 'scale': 'per_pixel', 'fixed_scale': 0.1}
  )
  config.kl_weight = ConfigDict({'name': 'linear', 'beta': 1.0, 'warmup_steps': 0, 'start': 0})
  config.encoder = ConfigDict({'name': 'mlp', 'widths': (400,), 'activation': 'relu'})
  config.decoder = ConfigDict({'name': 'mlp', 'widths': (400,), 'activation': 'relu'})
  config.sampler = ConfigDict(
    {'codes': 'prior', 'num_components': 10, 'refinements': 0, 'refine_by': 'mean'}
  )
  config.evaluation.update(likelihood='elbo', num_draws=1, num_temperatures=1000)
  return config


def as_autoencoder(vae: ConfigDict) -> ConfigDict:
  """The plain autoencoder with the networks and the training of a VAE."""
  config = ConfigDict(vae.to_dict())
  method = {name: vae.method[name] for name in ('latent_dim', 'sample_pixels')}
  config.method = ConfigDict({'name': 'autoencoder', **method})
  del config.kl_weight
  for name in ('likelihood', 'num_draws', 'num_temperatures'):
    del config.evaluation[name]
  return config


def diffusion(dataset: str) -> ConfigDict:
  """A diffusion model with a U-Net."""
  config = _base(dataset)
  config.cpu_devices = 0
  config.method = ConfigDict(
    {
      'name': 'diffusion',
      'prediction': 'v',
      'num_level_features': 24,
      'variance': 'fixed_small',
      'loss': 'bound',
      'hybrid_weight': 1e-3,
      'times': 'uniform',
      'conditional': False,
      'label_dropout': 0.0,
      'decoder': 'discretized_normal',
      'clip_x_0': True,
    }
  )
  config.evaluation.update(
    likelihood='bound', num_times=0, divergence='hutchinson', time_terms=False
  )
  config.schedule = ConfigDict({'name': 'cosine', 'T': 1000})
  config.sampler = ConfigDict(
    {
      'name': 'ancestral',
      'num_steps': 0,
      'spacing': 'time',
      'guidance': 0.0,
      'noise_scale': 1.0,
      'eta': 0.0,
    }
  )
  config.denoiser = ConfigDict(
    {
      'name': 'unet',
      'widths': (32, 64),
      'num_blocks': 1,
      'patch_size': 1,
      'attention': True,
      'fourier_exponents': (),
      'remat': False,
    }
  )
  return config


def as_denoising_chain(diffusion: ConfigDict) -> ConfigDict:
  """The chain of denoisers with the network, the schedule and the training of a diffusion model."""
  config = ConfigDict(diffusion.to_dict())
  config.method = ConfigDict({'name': 'denoising_chain', 'networks': 'shared'})
  del config.sampler
  for name in ('likelihood', 'num_times', 'divergence', 'time_terms'):
    del config.evaluation[name]
  return config


def classifier(dataset: str) -> ConfigDict:
  """A convolutional classifier, for the features in which samples are compared with data."""
  config = _base(dataset)
  config.cpu_devices = 0
  config.method = ConfigDict({'name': 'classifier', 'num_features': 64, 'max_shift': 1})
  config.trunk = ConfigDict({'name': 'conv', 'widths': (32, 64), 'num_blocks': 1})
  return config


def finish(config: ConfigDict, variant: str) -> ConfigDict:
  """The config's variant, locked: '' as it is, 'tiny' the same experiment in seconds."""
  if variant not in ('', 'tiny'):
    raise InputError(f'unknown variant {variant!r} of the config; the only one is :tiny')
  if variant == 'tiny':
    _make_tiny(config)
  return config.lock()


def _base(dataset: str) -> ConfigDict:
  return ConfigDict(
    {
      'seed': 0,
      'seeds': 1,
      'cpu_devices': 1,
      'compute_dtype': 'float32',
      'data': {'name': dataset, 'data_dir': '', 'binarize': False},
      'training': {
        'num_steps': 10_000,
        'batch_size': 128,
        'steps_per_dispatch': 100,
        'checkpoint_every': 2_000,
        'ema_decay': 0.999,
        'gradient_accumulation': 1,
      },
      'optimizer': {
        'name': 'adam',
        'learning_rate': 1e-3,
        'decay': 'cosine',
        'warmup_steps': 100,
        'b1': 0.9,
        'b2': 0.999,
        'eps': 1e-8,
        'weight_decay': 0.0,
        'clip_norm': 0.0,
      },
      'evaluation': {'split': 'test', 'batch_size': 512, 'every': 2_000},
      'sampling': {'num_samples': 64, 'batch_size': 64, 'trajectory': False},
      'fit': {'num_examples': 0},
      'quality': {'classifier': '', 'num_samples': 1000, 'inception': ''},
    }
  )


def _make_tiny(config: ConfigDict) -> None:
  config.training.update(num_steps=20, batch_size=32, steps_per_dispatch=10, checkpoint_every=10)
  config.optimizer.warmup_steps = 5
  config.evaluation.update(batch_size=104, every=config.evaluation.every and 10)
  config.sampling.update(num_samples=16, batch_size=16)
  config.fit.num_examples = 64
  for section in ('encoder', 'decoder', 'trunk', 'denoiser'):
    _make_network_tiny(config.get(section, ConfigDict()))
  if 'schedule' in config:
    config.schedule.T = 20
  if 'num_draws' in config.evaluation:
    config.evaluation.update(num_draws=min(config.evaluation.num_draws, 7), num_temperatures=10)
  if 'num_times' in config.evaluation:
    config.evaluation.num_times = 4
  if config.get('sampler', {}).get('num_steps'):
    config.sampler.num_steps = 5


def _make_network_tiny(network: ConfigDict) -> None:
  if network.get('name') == 'transformer':
    network.update(width=16, num_blocks=1, num_heads=2)
  elif 'widths' in network:
    tiny = (8, 16, 16)[: len(network.widths)]
    network.update(widths=tiny if network.widths[0] <= network.widths[-1] else tiny[::-1])
  if 'num_blocks' in network:
    network.num_blocks = 1
