"""Diffusion on 8-bit MNIST: a U-Net that predicts levels, trained on the continuous-time bound.

  python -m experiments.run --config=configs/mnist_diffusion.py --workdir=runs/mnist_diffusion

7 minutes of training on two CPU cores (those of `mnist_diffusion_hour`), and four of evaluation and
sampling. Test (10,000 examples; the decoder and 10 draws of the log-SNR for each, unbiased):
0.963 +- 0.003 bits/dim. Chosen on a validation split. Data: see BUILD.md.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = ''):
  config = common.diffusion('mnist')
  config.method.update(prediction='levels', decoder='levels', loss='continuous', times='antithetic')
  config.schedule = ConfigDict({'name': 'linear_log_snr', 'T': 1000, 'first': 13.3, 'last': -5.0})
  config.denoiser.update(
    widths=(24, 48, 96), num_blocks=1, attention=False, fourier_exponents=(1, 2, 3, 4, 5, 6)
  )
  config.optimizer.update(name='muon', learning_rate=8e-3)
  config.training.update(
    num_steps=4_400, batch_size=32, steps_per_dispatch=20, checkpoint_every=1_100, ema_decay=0.998
  )
  config.evaluation.update(likelihood='continuous', batch_size=512, every=0, num_times=10)
  return common.finish(config, variant)
