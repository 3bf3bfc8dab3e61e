"""Classifier of MNIST, in whose features the quality of samples is measured.

python -m experiments.run --config=configs/mnist_classifier.py --workdir=runs/mnist_classifier

4 minutes on two CPU cores. Test (10,000 examples): accuracy 0.9925 +- 0.0009. Data: see BUILD.md.
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
