"""The weight beta of the KL against the reconstruction (lecture section 3.3), on digits.

  python -m experiments.sweep --sweep=configs/sweeps/beta.py --workdir=runs/beta

Five weights, four seeds each, on the VAE of `configs/digits_vae.py`. The bound is that of beta = 1
for all, so that it says which weight trains the best model.
"""

from configs import digits_vae


def get_sweep():
  return {
    'config': digits_vae.get_config(),
    'grid': {'kl_weight.beta': (0.25, 0.5, 1.0, 2.0, 4.0)},
    'seeds': (0, 1, 2, 3),
    'collect': (
      'metrics.nll_bound.value',
      'metrics.kl.value',
      'metrics.reconstruction.value',
      'metrics.active_units.value',
    ),
  }
