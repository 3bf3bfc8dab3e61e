"""Diffusion on 8-bit MNIST for one accelerator: a larger U-Net in bfloat16, trained for longer.

python -m experiments.run --config=configs/mnist_diffusion_large.py --workdir=runs/mnist_large

"""

from configs import common, mnist_diffusion_hour


def get_config(variant: str = ''):
  config = mnist_diffusion_hour.get_config().unlock()
  config.compute_dtype = 'bfloat16'
  config.denoiser.update(widths=(128, 128, 128), num_blocks=3)
  config.optimizer.learning_rate = 6e-3
  config.training.update(
    num_steps=16_000,
    batch_size=256,
    steps_per_dispatch=100,
    checkpoint_every=4_000,
    ema_decay=0.999,
  )
  return common.finish(config, variant)
