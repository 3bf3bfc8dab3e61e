"""A classifier of labelled data, in whose features the quality of samples is measured.

It generates nothing, and is a method all the same: it trains, is evaluated and checkpointed like
the others.
"""

import jax
import jax.numpy as jnp

from vaediff import random
from vaediff.likelihoods import center
from vaediff.methods.base import Batch, Method, Variables
from vaediff.networks import Network


def classifier(trunk: Network, head: Network, num_levels: int) -> Method:
  """A classifier, with the cross-entropy as loss.

  trunk: x [B, ...] centred on [-1, 1] -> features [B, F]. head: features -> logits [B, C].
  num_levels: of the data, 0 .. num_levels - 1.

  The loss has the term 'accuracy' beside it, 1 or 0 for each example. `statistics` gives for each
  example its 'features' [B, F] and 'log_probs' [B, C] of the classes. Labels have to be there: a
  label of -1 gives NaN.
  """

  def init(key, batch: Batch):
    trunk_key, head_key = random.split(key)
    x = center(batch.x, num_levels)
    params = trunk.init(trunk_key, x)
    features = trunk.apply(params, x)
    return Variables({'trunk': params, 'head': head.init(head_key, features)})

  def statistics(variables: Variables, keys, batch: Batch):
    del keys
    features = trunk.apply(variables.params['trunk'], center(batch.x, num_levels))
    logits = head.apply(variables.params['head'], features)
    return {'features': features, 'log_probs': jax.nn.log_softmax(logits)}

  def loss(variables: Variables, keys, batch: Batch, step):
    del step
    log_probs = statistics(variables, keys, batch)['log_probs']
    of_label = jnp.take_along_axis(log_probs, batch.label[:, None], axis=1)[:, 0]
    cross_entropy = jnp.where(batch.label >= 0, -of_label, jnp.nan)
    return {'loss': cross_entropy, 'accuracy': jnp.float32(log_probs.argmax(1) == batch.label)}

  return Method(init=init, loss=loss, units={'accuracy': '1'}, statistics=statistics)
