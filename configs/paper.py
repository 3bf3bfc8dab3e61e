"""The runs behind the figures of the paper: every method and setting, five seeds in one program.

  python -m experiments.run --config=configs/paper.py:digits_vae --workdir=runs/paper_digits_vae

Names are DATASET_RUN, of DATASETS and RUNS, with `,quick` behind them for QUICK, or `,tiny`
for the same in seconds. `python -m experiments.paper` runs all that its figures ask for. A quick
one takes between 10 seconds and 4 minutes on one CPU core on digits, and 2 to 4 minutes on MNIST;
but diffusion on MNIST, and the chain of denoisers, half an hour. Not quick, one on MNIST takes ten
minutes, but these two are for an accelerator: 16 passes of the data, not one. The networks are
multi-layer perceptrons, except the classifiers, which are convolutional, and on MNIST diffusion and
the chain, which have one U-Net, narrower in quick runs.
"""

from ml_collections import ConfigDict

from configs import common, digits_classifier, digits_vae, mnist_classifier, variants
from vaediff.errors import InputError

DATASETS = ('digits', 'mnist')
BETAS = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
NUM_SEEDS = 5


def _vae(dataset: str) -> ConfigDict:
  if dataset == 'digits':
    return digits_vae.get_config().unlock()
  config = common.vae('mnist')
  config.optimizer.learning_rate = 4e-3
  config.training.update(num_steps=5_000, steps_per_dispatch=100)
  config.evaluation.update(batch_size=1000)
  return config


def _autoencoder(dataset: str) -> ConfigDict:
  return common.as_autoencoder(_vae(dataset))


def _diffusion(dataset: str) -> ConfigDict:
  if dataset == 'digits':
    config = variants.mlp_diffusion()
    config.method.times = 'importance'
    config.optimizer.learning_rate = 4e-3
    return config
  config = common.diffusion('mnist')
  config.method.update(decoder='nearest_level', times='antithetic')
  config.schedule = ConfigDict({'name': 'linear_log_snr', 'T': 100, 'first': 13.3, 'last': -5.0})
  config.denoiser.update(widths=(48, 96), patch_size=2, fourier_exponents=(1, 2, 3, 4, 5, 6))
  config.optimizer.update(name='muon', learning_rate=8e-3)
  config.training.update(num_steps=15_000, batch_size=64, steps_per_dispatch=20)
  config.evaluation.update(batch_size=512, num_times=5)
  return config


def _denoising_chain(dataset: str) -> ConfigDict:
  return common.as_denoising_chain(_diffusion(dataset))


def _classifier(dataset: str) -> ConfigDict:
  return (digits_classifier if dataset == 'digits' else mnist_classifier).get_config().unlock()


def _warmup(num_steps: int) -> dict:
  """Over the first half of training."""
  return {'warmup_steps': num_steps // 2}


def _cyclical(num_steps: int) -> dict:
  """Four times, over half of each cycle."""
  return {'name': 'cyclical', 'beta': 1.0, 'period': num_steps // 4, 'ramp': 0.5}


# name: (base, {section: fields that differ, or these by the number of steps}).
RUNS = {
  'classifier': (_classifier, {}),
  'autoencoder': (_autoencoder, {}),
  'autoencoder_2d': (_autoencoder, {'method': {'latent_dim': 2}}),
  'denoising_chain': (_denoising_chain, {}),
  'vae': (_vae, {}),
  'vae_2d': (_vae, {'method': {'latent_dim': 2}}),
  'vae_full': (_vae, {'method': {'posterior': 'full'}, 'kl_weight': _warmup}),
  'vae_box': (_vae, {'method': {'prior': 'uniform', 'posterior': 'box'}, 'kl_weight': _warmup}),
  **{f'vae_beta_{beta:g}': (_vae, {'kl_weight': {'beta': beta}}) for beta in BETAS if beta != 1},
  'vae_warmup': (_vae, {'kl_weight': _warmup}),
  'vae_cyclical': (_vae, {'kl_weight': _cyclical}),
  'vae_free_bits': (_vae, {'method': {'free_bits': 0.25}}),
  'diffusion': (_diffusion, {}),
  'diffusion_interpolated': (_diffusion, {'method': {'variance': 'interpolated'}}),
}
# What a quick training has less of, by data set and method: {section: fields}.
_QUICK_UNET = {
  'denoiser': {'widths': (32, 64)},
  'training': {'num_steps': 1_500, 'batch_size': 32},
}
QUICK = {
  'digits': {
    'vae': {'training': {'num_steps': 2_000}},
    'autoencoder': {'training': {'num_steps': 2_000}},
    'diffusion': {'training': {'num_steps': 3_000}},
    'denoising_chain': {'training': {'num_steps': 3_000}},
  },
  'mnist': {
    'vae': {'training': {'num_steps': 1_000}},
    'autoencoder': {'training': {'num_steps': 1_000}},
    'diffusion': _QUICK_UNET | {'evaluation': {'num_times': 2}},
    'denoising_chain': _QUICK_UNET,
  },
}
# The runs whose curves along training a figure shows.
CURVES = ('vae', 'vae_warmup', 'vae_cyclical', 'vae_free_bits')


def beta_run(beta: float) -> str:
  """The name of the run with this weight on the KL."""
  return 'vae' if beta == 1 else f'vae_beta_{beta:g}'


def get_config(name: str = ''):
  name, _, variant = name.partition(',')
  dataset, _, run = name.partition('_')
  if dataset not in DATASETS or run not in RUNS or variant not in ('', 'quick', 'tiny'):
    raise InputError(
      f'unknown run {name!r} {variant!r} of the paper; it is DATASET_RUN or DATASET_RUN,quick, of '
      f'{", ".join(DATASETS)} and {", ".join(RUNS)}'
    )
  base, sections = RUNS[run]
  config = base(dataset)
  if variant == 'quick' and run != 'classifier':
    for section, fields in QUICK[dataset][config.method.name].items():
      config[section].update(fields)
  for section, fields in sections.items():
    if callable(fields):
      fields = fields(config.training.num_steps)
    if 'name' in fields:
      config[section] = ConfigDict(fields)
    else:
      config[section].update(fields)
  if run != 'classifier':
    config.seeds = NUM_SEEDS
    # A U-Net trains for half an hour or more; an interruption costs a fifth of it at most.
    num_checkpoints = 5 if config.get('denoiser', {}).get('name') == 'unet' else 1
    config.training.checkpoint_every = config.training.num_steps // num_checkpoints
    config.evaluation.every = config.training.num_steps // 10 if run in CURVES else 0
    config.sampling.batch_size = 200
  return common.finish(config, 'tiny' if variant == 'tiny' else '')
