"""The interface that every method has: a NamedTuple of pure functions, closed over its networks.

Training, evaluation and figures treat all methods alike, through it alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from vaediff.latents import Latent


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
  fitted: what `Method.fit` gives, after training and from the data, not checkpointed; () before.
  """

  params: Any
  carry: Any = ()
  fitted: Any = ()


class Code(NamedTuple):
  """The code z [B, dim] of a method that has one: its encoder and its decoder by themselves.

  latent: the family of posteriors q(z | x), with its prior.
  init(key, batch) -> Variables
  posterior(variables, x) -> q
  log_likelihood(variables, x, z) -> log p(x | z), [B] nats
  decode(variables, keys [B], z) -> x [B, ...], on the data's own levels
  """

  dim: int
  latent: Latent
  init: Callable[..., Variables]
  posterior: Callable
  log_likelihood: Callable
  decode: Callable


class Method(NamedTuple):
  """A method as pure functions. What a method cannot have is None.

  `keys` are one PRNG key for each example, and every output depends on its own example and key
  only: numbers do not change with the number of devices. Terms are unreduced, in nats where
  `units` does not say otherwise.

  init(key, batch) -> Variables
  loss(variables, keys [B], batch, step) -> {'loss': [B], named terms: [B]}
    the total to minimise under 'loss'; `step` is the global step, for schedules.
  scores(variables, keys [B], batch) -> {name: [B]}
    what is reported of a split where there is no likelihood; None: the terms of the loss.
  units: pairs (term of loss or scores, its unit), of those that are not in nats.
  update_carry(carry, terms) -> carry
    called after each step with the terms of the whole global batch, in the order of Batch.index.
  statistics(variables, keys [B], batch) -> pytree of [B, ...]
  fit(statistics [N, ...]) -> Variables.fitted
    what is fitted after training, without gradients, to the statistics of training examples: the
    distribution of an autoencoder's codes, the reverse variance of a diffusion model. Runs on the
    host, in NumPy.
  sample(variables, keys [N], label [N]) -> x [N, ...]
    labels as in Batch; a method without conditioning ignores them.
  trajectory(variables, keys [N], label [N]) -> {'x': [N, S+1, ...], 'log_snr': [N, S+1]}
    the chain behind the sample of the same keys, from noise to data, in real numbers on [-1, 1].
  descend(variables, keys [N], label [N], x_t [N, ...], t) -> states [N, t+1, ...]
    the rest of the chain from x_t, at level t of its S, to data, by the noise that `trajectory` has
    from there on for the same keys: from states[:, S - t] of it the chain goes on as it does there.
  log_likelihood_bound(variables, keys [B], batch) -> {'elbo': [B], named terms: [B]}
  time_terms(variables, keys [B], batch) -> {'t': int32, 'log_snr', named terms}, each [B, K]
    of a chain over t = 1..T: what each level contributes, at K levels of each example.
  reconstruct(variables, keys [B], batch) -> x [B, ...]
  code: the encoder and decoder by themselves.
  """

  init: Callable[..., Variables]
  loss: Callable[..., dict[str, jax.Array]]
  scores: Callable[..., dict[str, jax.Array]] | None = None
  units: tuple[tuple[str, str], ...] = ()
  update_carry: Callable[..., Any] | None = None
  statistics: Callable[..., Any] | None = None
  fit: Callable[..., Variables] | None = None
  sample: Callable[..., jax.Array] | None = None
  trajectory: Callable[..., jax.Array] | None = None
  descend: Callable[..., jax.Array] | None = None
  log_likelihood_bound: Callable[..., dict[str, jax.Array]] | None = None
  time_terms: Callable[..., dict[str, jax.Array]] | None = None
  reconstruct: Callable[..., jax.Array] | None = None
  code: Code | None = None
