"""Plain repeated denoising on digits: the chain of configs/compare.py.

  python -m experiments.run --config=configs/digits_denoising_chain.py \
    --workdir=runs/digits_denoising_chain
"""

from configs import compare


def get_config(variant: str = ''):
  return compare.get_config(f'digits_denoising_chain,{variant}')
