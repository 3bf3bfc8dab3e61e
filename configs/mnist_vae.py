"""VAE on dynamically binarised MNIST: 784-400-20, Bernoulli likelihood, 85 epochs.

  python -m experiments.run --config=configs/mnist_vae.py --workdir=runs/mnist_vae

3.5 minutes on two CPU cores. Test (10,000 examples, one draw of z each): nll_bound
96.80 +- 0.26 nats. Data: see BUILD.md.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = ''):
  config = common.vae('mnist')
  config.data.binarize = True
  config.likelihood = ConfigDict({'name': 'bernoulli'})
  config.training.update(num_steps=40_000, steps_per_dispatch=500, checkpoint_every=10_000)
  config.evaluation.update(batch_size=1000, every=10_000)
  return common.finish(config, variant)
