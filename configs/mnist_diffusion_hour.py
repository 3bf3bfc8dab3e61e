"""The diffusion of `mnist_diffusion` on 8-bit MNIST, trained for an hour.

  python -m experiments.run --config=configs/mnist_diffusion_hour.py --workdir=runs/mnist_hour

51 minutes of training on two CPU cores, and ten of evaluation and sampling. Test (10,000
examples; the decoder and 10 draws of the log-SNR for each, unbiased): 0.918 +- 0.003 bits/dim.
Data: see BUILD.md.
"""

from configs import common, mnist_diffusion


def get_config(variant: str = ''):
  config = mnist_diffusion.get_config().unlock()
  config.training.update(num_steps=14_400, checkpoint_every=2_400, ema_decay=0.999)
  return common.finish(config, variant)
