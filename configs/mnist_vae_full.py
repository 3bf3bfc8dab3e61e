"""VAE on binarised MNIST with a full-covariance posterior, else as mnist_vae.

python -m experiments.run --config=configs/mnist_vae_full.py --workdir=runs/mnist_vae_full
"""

from configs import mnist_vae


def get_config(variant: str = ''):
  config = mnist_vae.get_config(variant).unlock()
  config.method.posterior = 'full'
  return config.lock()
