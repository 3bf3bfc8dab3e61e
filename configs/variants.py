"""Every variant of the methods, on digits: one base for each method, and what differs from it.

  python -m experiments.run --config=configs/variants.py:vae_box --workdir=runs/vae_box

Names are those of VARIANTS, with `,tiny` behind them for the same in seconds. The networks are
small multi-layer perceptrons (except in `vae_conv` and `diffusion_transformer`), so that a variant
trains in 15 to 60 seconds on two CPU cores.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from configs import common, digits_diffusion, digits_vae
from vaediff.errors import InputError


def _vae() -> ConfigDict:
  return digits_vae.get_config().unlock()


def _autoencoder() -> ConfigDict:
  return common.as_autoencoder(_vae())


def mlp_diffusion() -> ConfigDict:
  """The diffusion of digits_diffusion with a multi-layer perceptron in the place of the U-Net."""
  config = digits_diffusion.get_config().unlock()
  config.cpu_devices = 1
  config.denoiser = ConfigDict({'name': 'mlp', 'widths': (256, 256, 256), 'activation': 'silu'})
  config.training.update(num_steps=4_000, checkpoint_every=1_000)
  config.evaluation.every = 2_000
  return config


def _denoising_chain() -> ConfigDict:
  return common.as_denoising_chain(mlp_diffusion())


def _conditional() -> ConfigDict:
  config = mlp_diffusion()
  config.method.update(conditional=True, label_dropout=0.1)
  config.sampler.guidance = 1.0
  return config


def _binarized() -> ConfigDict:
  config = _vae()
  config.data.binarize = True
  config.likelihood = ConfigDict({'name': 'bernoulli'})
  return config


def _transformer() -> ConfigDict:
  config = mlp_diffusion()
  config.denoiser = ConfigDict(
    {
      'name': 'transformer',
      'width': 64,
      'num_blocks': 2,
      'num_heads': 4,
      'patch_size': 2,
      'remat': False,
    }
  )
  return config


# The decoder and the variance for schedules that begin with small steps.
HO_ET_AL = {'decoder': 'discretized_normal', 'variance': 'fixed_large'}
SHORT = {'num_steps': 20, 'spacing': 'log_snr'}
# name: (base, {section: fields that differ, or the whole section where it has a name}).
VARIANTS: dict[str, tuple[Callable[[], ConfigDict], dict]] = {
  'autoencoder': (_autoencoder, {}),
  'autoencoder_normal': (_autoencoder, {'sampler': {'codes': 'normal'}}),
  'autoencoder_mixture': (_autoencoder, {'sampler': {'codes': 'mixture'}}),
  'vae': (_vae, {}),
  'vae_full': (_vae, {'method': {'posterior': 'full'}}),
  'vae_box': (_vae, {'method': {'prior': 'uniform', 'posterior': 'box'}}),
  'vae_bernoulli': (_binarized, {}),
  'vae_normal_shared_scale': (
    _vae,
    {'likelihood': {'name': 'discretized_normal', 'scale': 'shared', 'fixed_scale': 0.1}},
  ),
  'vae_logistic_fixed_scale': (_vae, {'likelihood': {'scale': 'fixed', 'fixed_scale': 0.1}}),
  'vae_conv': (
    _vae,
    {
      'encoder': {'name': 'conv', 'widths': (16, 32), 'num_blocks': 1},
      'decoder': {'name': 'conv', 'widths': (32, 16), 'num_blocks': 1},
    },
  ),
  'vae_beta_4': (_vae, {'kl_weight': {'beta': 4.0}}),
  'vae_collapsed': (_vae, {'kl_weight': {'beta': 100.0}}),
  'vae_warmup': (_vae, {'kl_weight': {'warmup_steps': 1_000}}),
  'vae_reconstruction_first': (_vae, {'kl_weight': {'start': 500, 'warmup_steps': 500}}),
  'vae_cyclical': (
    _vae,
    {'kl_weight': {'name': 'cyclical', 'beta': 1.0, 'period': 500, 'ramp': 0.5}},
  ),
  'vae_free_bits': (_vae, {'method': {'free_bits': 0.25}}),
  'vae_draws_5': (_vae, {'method': {'num_draws': 5}}),
  'vae_iwae_5': (_vae, {'method': {'objective': 'iwae', 'num_draws': 5}}),
  'vae_refined': (_vae, {'sampler': {'refinements': 2}}),
  'vae_refined_by_sample': (_vae, {'sampler': {'refinements': 2, 'refine_by': 'sample'}}),
  'vae_mixture': (_vae, {'sampler': {'codes': 'mixture'}}),
  'vae_importance_weighted': (
    _vae,
    {'evaluation': {'likelihood': 'importance_weighted', 'num_draws': 5_000}},
  ),
  'vae_annealed': (
    _vae,
    {'evaluation': {'likelihood': 'annealed', 'num_draws': 5, 'num_temperatures': 300}},
  ),
  'denoising_chain': (_denoising_chain, {}),
  'denoising_chain_separate': (
    _denoising_chain,
    {
      'method': {'networks': 'separate'},
      'schedule': {'T': 20},
      'denoiser': {'widths': (128, 128)},
    },
  ),
  'diffusion': (mlp_diffusion, {}),
  'diffusion_eps': (mlp_diffusion, {'method': {'prediction': 'eps'}}),
  'diffusion_x_0': (mlp_diffusion, {'method': {'prediction': 'x_0'}}),
  'diffusion_levels': (
    mlp_diffusion,
    {
      'method': {'prediction': 'levels', 'decoder': 'levels', 'loss': 'continuous'},
      'optimizer': {'name': 'muon'},
      'evaluation': {'likelihood': 'continuous'},
    },
  ),
  'diffusion_simple': (mlp_diffusion, {'method': {'prediction': 'eps', 'loss': 'simple'}}),
  'diffusion_fixed_large': (mlp_diffusion, {'method': {'variance': 'fixed_large'}}),
  'diffusion_hybrid': (mlp_diffusion, {'method': {'variance': 'interpolated', 'loss': 'hybrid'}}),
  'diffusion_interpolated': (mlp_diffusion, {'method': {'variance': 'interpolated'}}),
  'diffusion_free': (mlp_diffusion, {'method': {'variance': 'free'}}),
  'diffusion_optimal': (mlp_diffusion, {'method': {'variance': 'optimal'}}),
  'diffusion_antithetic': (mlp_diffusion, {'method': {'times': 'antithetic'}}),
  'diffusion_importance': (mlp_diffusion, {'method': {'times': 'importance'}}),
  'diffusion_continuous': (
    mlp_diffusion,
    {
      'method': {'loss': 'continuous', 'times': 'antithetic'},
      'evaluation': {'likelihood': 'continuous', 'num_times': 200},
    },
  ),
  'diffusion_probability_flow': (
    mlp_diffusion,
    {'evaluation': {'likelihood': 'probability_flow', 'num_times': 50}},
  ),
  'diffusion_linear': (
    mlp_diffusion,
    {
      'method': HO_ET_AL,
      'schedule': {'name': 'linear', 'T': 250, 'beta_first': 4e-4, 'beta_last': 0.08},
    },
  ),
  'diffusion_cosine': (
    mlp_diffusion,
    {
      'method': HO_ET_AL,
      'schedule': {'name': 'cosine', 'T': 250},
    },
  ),
  'diffusion_learned_schedule': (
    mlp_diffusion,
    {'schedule': {'name': 'learned', 'T': 250, 'first': 7.5, 'last': -5.0}},
  ),
  'diffusion_conditional': (_conditional, {}),
  'diffusion_transformer': (_transformer, {}),
  'diffusion_no_noise': (mlp_diffusion, {'sampler': {'noise_scale': 0.0}}),
  'diffusion_more_noise': (mlp_diffusion, {'sampler': {'noise_scale': 1.2}}),
  'diffusion_respaced': (mlp_diffusion, {'sampler': {'num_steps': 50}}),
  'diffusion_ddim': (mlp_diffusion, {'sampler': {'name': 'ddim', **SHORT}}),
  'diffusion_2m': (mlp_diffusion, {'sampler': {'name': 'dpm_solver_pp_2m', **SHORT}}),
  'diffusion_sde_2m': (
    mlp_diffusion,
    {'sampler': {'name': 'dpm_solver_pp_2m', 'eta': 1.0, **SHORT}},
  ),
  'diffusion_heun': (mlp_diffusion, {'sampler': {'name': 'heun', **SHORT}}),
}


def get_config(name: str = ''):
  name, _, variant = name.partition(',')
  if name not in VARIANTS:
    raise InputError(f'unknown variant {name!r}; it is one of {", ".join(VARIANTS)}')
  base, sections = VARIANTS[name]
  config = base()
  config.evaluation.update(batch_size=304, every=0)
  for section, fields in sections.items():
    if 'name' in fields and section not in ('sampler', 'optimizer'):
      config[section] = ConfigDict(fields)
    else:
      config[section].update(fields)
  return common.finish(config, variant)
