"""The interface that every method has: a NamedTuple of pure functions, closed over its networks.

Training, evaluation and figures treat all methods alike, through it alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Batch(NamedTuple):
  """Examples as a method sees them.

  x: [B, ...], on the data's own levels (uint8), or real numbers where the data are continuous.
  label: [B] int32, -1 where an example has none.
  index: [B] int32, the place of the example in the global batch, whatever the number of devices.
  """

  x: jax.Array
  label: jax.Array
  index: jax.Array


class Variables(NamedTuple):
  """All that a method has learned.

  params: what the optimiser changes, by gradients.
  carry: what `Method.update_carry` changes, by other means (the loss history of a time sampler);
    () where there is nothing. Replicated, checkpointed and resumed like the parameters.
  """

  params: Any
  carry: Any = ()


class Method(NamedTuple):
  """A method as pure functions. What a method cannot have is None.

  `keys` are one PRNG key for each example, and every output depends on its own example and key
  only: numbers do not change with the number of devices. Terms are unreduced, in nats unless their
  name's documentation says otherwise.

  init(key, batch) -> Variables
  loss(variables, keys [B], batch, step) -> {'loss': [B], named terms: [B]}
    the total to minimise under 'loss'; `step` is the global step, for schedules.
  update_carry(carry, terms) -> carry
    called after each step with the terms of the whole global batch, in the order of Batch.index.
  sample(variables, keys [N], label [N]) -> x [N, ...]
    labels as in Batch; a method without conditioning ignores them.
  log_likelihood_bound(variables, keys [B], batch) -> {'elbo': [B], named terms: [B]}
  reconstruct(variables, keys [B], batch) -> x [B, ...]
  """

  init: Callable[..., Variables]
  loss: Callable[..., dict[str, jax.Array]]
  sample: Callable[..., jax.Array]
  update_carry: Callable[..., Any] | None = None
  log_likelihood_bound: Callable[..., dict[str, jax.Array]] | None = None
  reconstruct: Callable[..., jax.Array] | None = None
