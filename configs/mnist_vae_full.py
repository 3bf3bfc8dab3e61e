"""VAE on binarised MNIST with a full-covariance posterior, else as mnist_vae.

  python -m experiments.run --config=configs/mnist_vae_full.py --workdir=runs/mnist_vae_full

About 6 minutes on two CPU cores. Training loss, the negative ELBO, over the last 10,000 steps:
100.26 +- 0.05 nats; not yet evaluated on the test split. Data: see BUILD.md.
"""

from configs import mnist_vae


def get_config(variant: str = ''):
  config = mnist_vae.get_config(variant).unlock()
  config.method.posterior = 'full'
  return config.lock()
