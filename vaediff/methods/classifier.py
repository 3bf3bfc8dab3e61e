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


def classifier(trunk: Network, head: Network, num_levels: int, max_shift: int = 0) -> Method:
  """A classifier, with the cross-entropy as loss.

  trunk: x [B, ...] centred on [-1, 1] -> features [B, F]. head: features -> logits [B, C].
  num_levels: of the data, 0 .. num_levels - 1.
  max_shift: in training each picture [H, W, C] is moved by up to so many pixels in both directions,
    at random; what comes in from outside is level 0.

  The loss has the term 'accuracy' beside it, 1 or 0 for each example; `scores` are the two of the
  pictures as they are. `statistics` gives for each example its 'features' [B, F] and 'log_probs'
  [B, C] of the classes. Labels have to be there: a label of -1 gives NaN.
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

  def scores(variables: Variables, keys, batch: Batch):
    log_probs = statistics(variables, keys, batch)['log_probs']
    of_label = jnp.take_along_axis(log_probs, batch.label[:, None], axis=1)[:, 0]
    cross_entropy = jnp.where(batch.label >= 0, -of_label, jnp.nan)
    return {'loss': cross_entropy, 'accuracy': jnp.float32(log_probs.argmax(1) == batch.label)}

  def loss(variables: Variables, keys, batch: Batch, step):
    del step
    if max_shift:
      batch = batch._replace(x=_shifted(keys, batch.x, max_shift))
    return scores(variables, keys, batch)

  return Method(
    init=init, loss=loss, scores=scores, units=(('accuracy', '1'),), statistics=statistics
  )


def _shifted(keys, x, max_shift: int):
  """Pictures x [B, H, W, C], each moved by up to max_shift pixels at random."""
  padded = jnp.pad(x, ((0, 0), (max_shift, max_shift), (max_shift, max_shift), (0, 0)))
  corner = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, 2 * max_shift + 1))(keys)
  crop = jax.vmap(lambda p, c: jax.lax.dynamic_slice(p, (c[0], c[1], 0), x.shape[1:]))
  return crop(padded, corner)
