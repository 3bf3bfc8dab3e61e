"""Diffusion on 8-bit MNIST: a U-Net trained on the full bound, T = 1000.

  python -m experiments.run --config=configs/mnist_diffusion.py --workdir=runs/mnist_diffusion

22 minutes on two CPU cores. Test (10,000 examples; the decoder and 10 of the other 999 terms
for each, unbiased): 1.332 +- 0.003 bits/dim, measured at commit dad646d; the random draws have
changed since, so that a run differs by chance. Data: see BUILD.md.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = ''):
  config = common.diffusion('mnist')
  config.method.decoder = 'nearest_level'
  config.schedule = ConfigDict({'name': 'linear_log_snr', 'T': 1000, 'first': 13.3, 'last': -5.0})
  config.denoiser.update(
    widths=(48, 96), num_blocks=1, patch_size=2, fourier_exponents=(1, 2, 3, 4, 5, 6, 7, 8)
  )
  config.optimizer.learning_rate = 2e-3
  config.training.update(
    num_steps=3_000, batch_size=64, steps_per_dispatch=20, checkpoint_every=500
  )
  config.evaluation.update(batch_size=500, every=0, num_times=10)
  return common.finish(config, variant)
