"""Classifier of digits, in whose features the quality of samples is measured.

python -m experiments.run --config=configs/digits_classifier.py --workdir=runs/digits_classifier

20 seconds on two CPU cores. Test (297 examples, other writers than train): accuracy
0.966 +- 0.010.
"""

from configs import common


def get_config(variant: str = ''):
  config = common.classifier('digits')
  config.method.num_features = 16
  config.optimizer.weight_decay = 1.0
  config.training.update(num_steps=1_000, batch_size=64, checkpoint_every=500)
  config.evaluation.update(batch_size=304, every=500)
  return common.finish(config, variant)
