"""Plain repeated denoising on 8-bit MNIST: the chain of configs/compare.py.

  python -m experiments.run --config=configs/mnist_denoising_chain.py \
    --workdir=runs/mnist_denoising_chain
"""

from configs import compare


def get_config(variant: str = ''):
  return compare.get_config(f'mnist_denoising_chain,{variant}')
