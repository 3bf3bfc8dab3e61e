"""VAE and IWAE of Burda et al. 2016, Table 1, one stochastic layer, on dynamically binarised MNIST.

  python -m experiments.run --config=configs/burda.py:iwae_5 --workdir=runs/burda_iwae_5

Names are vae_K and iwae_K, K draws of z for each example in training, with `,tiny` behind them for
the same in seconds. 784-200-200-50, tanh; the test NLL is importance-weighted with 5,000 draws. The
paper takes batches of 20, 3,280 passes in eight stages of falling learning rate, Adam with eps 1e-4
and an output bias that begins at the logit of the mean picture; here it is batches of 100, 400
passes with cosine decay, and no such bias. Not run yet as a whole: at the rates of the first ten
passes, training takes 13 minutes with one draw and 28 with five on two CPU cores. Data: see
BUILD.md.
"""

from ml_collections import ConfigDict

from configs import common
from vaediff.errors import InputError

OBJECTIVES = {'vae': 'elbo', 'iwae': 'iwae'}
DRAWS = (1, 5, 50)
PASSES = 500


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
  config.training.update(num_steps=PASSES * 600, batch_size=100, steps_per_dispatch=600)
  config.training.checkpoint_every = config.training.num_steps // 10
  config.evaluation.update(
    likelihood='importance_weighted', num_draws=5_000, batch_size=100, every=0
  )
  return common.finish(config, variant)
