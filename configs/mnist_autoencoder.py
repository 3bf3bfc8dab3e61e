"""Plain autoencoder on 8-bit MNIST: the one of configs/compare.py.

python -m experiments.run --config=configs/mnist_autoencoder.py --workdir=runs/mnist_autoencoder

8 minutes on two CPU cores. Test (10,000 examples): -log p(x | z) 726.3 +- 2.1 nats, which is no
likelihood of x. Data: see BUILD.md.
"""

from configs import compare


def get_config(variant: str = ''):
  return compare.get_config(f'mnist_autoencoder,{variant}')
