"""VAE (784-400-20) on dynamically binarised MNIST."""

from configs import common


def get_config(variant: str = ''):
  config = common.vae('mnist')
  config.data.binarize = True
  config.method.likelihood = 'bernoulli'
  config.training.update(num_steps=40_000, steps_per_dispatch=500, checkpoint_every=10_000)
  config.evaluation.update(batch_size=1000, every=10_000)
  return common.finish(config, variant)
