"""Diffusion on 8-bit CIFAR-10: a small U-Net and the continuous-time bound, for one accelerator.

  python -m experiments.run --config=configs/cifar10_diffusion.py --workdir=runs/cifar10_diffusion

12.1 million parameters, 200,000 steps in batches of 128. Not run yet. What to expect of the
training, with 4.3 GB of memory, by

  python -m experiments.plan --config=configs/cifar10_diffusion.py --device_kind=h100 --chips=1,8

33 minutes on one H100 and 6 on eight, and with --device_kind=tpu_v5e 2.2 hours on one chip: the
memory traffic of the step as compiled for a CPU, at the peak of the device. Its operations alone,
1.0e12 a step, would take 3.4 minutes at the peak of one H100. Data: see BUILD.md.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = ''):
  config = common.diffusion('cifar10')
  config.compute_dtype = 'bfloat16'
  config.method.update(decoder='nearest_level', loss='continuous', times='antithetic')
  config.schedule = ConfigDict({'name': 'linear_log_snr', 'T': 1000, 'first': 13.3, 'last': -5.0})
  config.denoiser.update(widths=(64, 128, 256), num_blocks=2, fourier_exponents=(7, 8))
  config.optimizer.update(learning_rate=2e-4, warmup_steps=5_000, clip_norm=1.0)
  config.training.update(num_steps=200_000, checkpoint_every=20_000, ema_decay=0.9999)
  config.evaluation.update(likelihood='continuous', batch_size=400, num_times=10, every=0)
  return common.finish(config, variant)
