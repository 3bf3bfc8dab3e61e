"""The four systems of the lecture at equal network size and training time, on digits and MNIST.

  bash scripts/compare.sh digits    # or mnist
  python -m experiments.run --config=configs/compare.py:digits_vae --workdir=runs/digits_vae

Names are DATASET_SYSTEM, with `,tiny` behind them for the same in seconds. The networks have about
half a million parameters: convolutional encoder and decoder for `autoencoder` and `vae`, one U-Net
for `denoising_chain` and `diffusion`, which also share the schedule. The numbers of steps were
chosen so that each trains for the same time on two CPU cores: 1 minute on digits, 8 on MNIST.
"""

from ml_collections import ConfigDict

from configs import common
from vaediff.errors import InputError

SYSTEMS = ('autoencoder', 'denoising_chain', 'vae', 'diffusion')
STEPS = {
  'digits': {'autoencoder': 3_600, 'vae': 3_600, 'denoising_chain': 1_200, 'diffusion': 1_200},
  'mnist': {'autoencoder': 4_000, 'vae': 4_000, 'denoising_chain': 2_300, 'diffusion': 2_300},
}


def get_config(name: str = ''):
  name, _, variant = name.partition(',')
  dataset, _, system = name.partition('_')
  if dataset not in STEPS or system not in SYSTEMS:
    raise InputError(
      f'unknown comparison {name!r}; it is DATASET_SYSTEM, of {", ".join(STEPS)} and '
      f'{", ".join(SYSTEMS)}'
    )
  is_mnist = dataset == 'mnist'
  if system in ('autoencoder', 'vae'):
    config = common.vae(dataset)
    widths = (36, 72) if is_mnist else (48, 96)
    config.method.latent_dim = 20 if is_mnist else 10
    config.encoder = ConfigDict({'name': 'conv', 'widths': widths, 'num_blocks': 1})
    config.decoder = ConfigDict({'name': 'conv', 'widths': widths[::-1], 'num_blocks': 1})
  else:
    config = common.diffusion(dataset)
    config.method.update(decoder='nearest_level', times='antithetic')
    config.evaluation.num_times = 10 if is_mnist else 0
    exponents = tuple(range(1, 9)) if is_mnist else (3, 4)
    config.denoiser.update(patch_size=1 + is_mnist, fourier_exponents=exponents)
    first = 13.3 if is_mnist else 7.5
    config.schedule = ConfigDict({'name': 'linear_log_snr', 'T': 250, 'first': first, 'last': -5.0})
    config.optimizer.learning_rate = 2e-3
  config.training.update(
    num_steps=STEPS[dataset][system], batch_size=64, steps_per_dispatch=20, checkpoint_every=1_000
  )
  config.evaluation.update(batch_size=500 if is_mnist else 304, every=0)
  config.quality.num_samples = 500 if is_mnist else 1_000
  if system == 'autoencoder':
    config = common.as_autoencoder(config)
  elif system == 'denoising_chain':
    config = common.as_denoising_chain(config)
  return common.finish(config, variant)
