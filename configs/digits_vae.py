"""VAE on digits: 64-400-10, discretised logistic likelihood over the 17 levels.

  python -m experiments.run --config=configs/digits_vae.py --workdir=runs/digits_vae

15 seconds on two CPU cores. Test (297 examples, other writers than train): nll_bound
90.56 +- 0.75 nats, 2.041 +- 0.017 bits/dim. The step count and weight
decay were chosen on the validation split.
"""

from configs import common


def get_config(variant: str = ''):
  config = common.vae('digits')
  config.method.latent_dim = 10
  config.optimizer.weight_decay = 0.1
  config.training.update(num_steps=2_000, checkpoint_every=500)
  config.evaluation.update(batch_size=304, every=500)
  return common.finish(config, variant)
