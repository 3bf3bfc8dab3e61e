"""What a training costs, before it is run."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments.build import build
from experiments.tools import TRAIN, Tools


class Cost(NamedTuple):
  """num_params: of the model. flops: floating point operations of all steps of the training."""

  num_params: int
  flops: float


def estimate(config: dict) -> Cost:
  """The cost of a config's training, by XLA's analysis of one step that is traced, not compiled.

  Operations that the compiler would merge or remove are counted. Raises InputError where the data
  are not there.
  """
  experiment = build(config)
  tools = Tools(experiment, config, Path(), jax.devices()[:1])
  state, split = jax.eval_shape(tools.initial_state), experiment.dataset.train
  abstract, x, label = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype),
    (state, split.x[:1], split.label[:1]),
  )
  indices = np.zeros((1, 1, config['training']['batch_size']), np.int32)
  step = tools.dispatch.lower(abstract, np.int32(0), tools.key(TRAIN), x, label, indices)
  num_params = sum(leaf.size for leaf in jax.tree.leaves(state.variables.params))
  return Cost(num_params, step.cost_analysis()['flops'] * config['training']['num_steps'])
