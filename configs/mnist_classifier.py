"""Classifier of MNIST, in whose features the quality of samples is measured.

python -m experiments.run --config=configs/mnist_classifier.py --workdir=runs/mnist_classifier
"""

from configs import common


def get_config(variant: str = ''):
  config = common.classifier('mnist')
  config.trunk.widths = (16, 32)
  config.optimizer.weight_decay = 0.1
  config.training.update(
    num_steps=3_000, batch_size=64, steps_per_dispatch=50, checkpoint_every=1_000
  )
  config.evaluation.update(batch_size=1000, every=0)
  return common.finish(config, variant)
