"""Plain repeated denoising on digits: the chain of configs/compare.py.

  python -m experiments.run --config=configs/digits_denoising_chain.py \
    --workdir=runs/digits_denoising_chain

1 minute on two CPU cores, and half a minute for samples. Test (297 examples): loss 0.975 +- 0.010,
the squared error of the guessed x_{t-1} in units of that of x_t / sqrt(B_t).
"""

from configs import compare


def get_config(variant: str = ''):
  return compare.get_config(f'digits_denoising_chain,{variant}')
