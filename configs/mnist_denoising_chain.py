"""Plain repeated denoising on 8-bit MNIST: the chain of configs/compare.py.

  python -m experiments.run --config=configs/mnist_denoising_chain.py \
    --workdir=runs/mnist_denoising_chain

9 minutes on two CPU cores. Test (10,000 examples): loss 0.9394 +- 0.0006, the squared error of the
guessed x_{t-1} in units of that of x_t / sqrt(B_t). Data: see BUILD.md.
"""

from configs import compare


def get_config(variant: str = ''):
  return compare.get_config(f'mnist_denoising_chain,{variant}')
