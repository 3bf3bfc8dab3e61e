"""Plain autoencoder on 8-bit MNIST: the one of configs/compare.py.

python -m experiments.run --config=configs/mnist_autoencoder.py --workdir=runs/mnist_autoencoder
"""

from configs import compare


def get_config(variant: str = ''):
  return compare.get_config(f'mnist_autoencoder,{variant}')
