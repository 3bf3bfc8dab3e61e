"""How the training of diffusion draws the time of each example.

A loss that is a mean over times is estimated at one time per example, u in [0, 1): of T levels it
is t = 1 + floor(u T). All samplers are unbiased: E[weight f(u)] is the integral of f over [0, 1).
They differ in the variance of the estimate, and so of the gradient.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaediff import random

GOLDEN_RATIO = 0.6180339887498949
# Of the loss history: how many terms are kept for each level, and the share of the draws that stays
# uniform, so that no level is ever given up (Nichol & Dhariwal 2021, section 3.3).
HISTORY, UNIFORM_SHARE = 10, 1e-3


class TimeSampler(NamedTuple):
  """A time sampler as pure functions; its state is the same on all devices and checkpointed.

  init(key) -> state
  draw(state, keys [B], index [B]) -> (u [B] in [0, 1), weight [B])
    index: the place of the example in the global batch.
  update(state, u [B], term [B]) -> state
    after each step: the times of the whole global batch with the loss at each; None where the state
    never changes.
  """

  init: Callable[[jax.Array], Any]
  draw: Callable
  update: Callable | None


def uniform() -> TimeSampler:
  """Independent uniform times."""
  return TimeSampler(
    init=lambda key: (),
    draw=lambda state, keys, index: (random.uniform(keys, keys.shape), jnp.ones(keys.shape)),
    update=None,
  )


def antithetic() -> TimeSampler:
  """Times spread evenly over the batch (the low-discrepancy sampler of Kingma et al. 2021, I.1).

  u = offset + point of index, modulo 1. The points are the van der Corput sequence, which for a
  batch of 2^n examples are 0, 1/2^n, ..., each once, and are nearly as even for any other size. The
  offset is random at first, and each step adds the golden ratio to it, so that the offsets of
  successive steps are spread evenly too.
  """

  def draw(state, keys, index):
    del keys
    u = state + van_der_corput(index)
    return u - jnp.floor(u), jnp.ones(index.shape)

  def update(state, u, term):
    del u, term
    state = state + GOLDEN_RATIO
    return state - jnp.floor(state)

  return TimeSampler(init=jax.random.uniform, draw=draw, update=update)


def importance(num_levels: int) -> TimeSampler:
  """Levels with probability in proportion to sqrt(E[term^2]) (Nichol & Dhariwal 2021, eq. 18).

  The expectation is over the last HISTORY terms that each level had; until every level has had as
  many, the draws are uniform. num_levels: how many equal parts of [0, 1) have a history of their
  own, as a rule T.
  """

  def init(key):
    del key
    return {
      'terms': jnp.zeros((num_levels, HISTORY)),
      'count': jnp.zeros(num_levels, jnp.int32),
    }

  def draw(state, keys, index):
    del index
    probability = importance_probability(state)
    edges = jnp.cumsum(probability)
    level_keys, place_keys = random.split(keys)
    v = random.uniform(level_keys, keys.shape) * edges[-1]
    level = jnp.minimum(jnp.searchsorted(edges, v, side='right'), num_levels - 1)
    # Away from the ends of the level, so that floor(u T) is the level whatever the rounding.
    place = jnp.clip(random.uniform(place_keys, keys.shape), 0.001, 0.999)
    return (level + place) / num_levels, 1 / (num_levels * probability[level])

  def update(state, u, term):
    level = jnp.floor(u * num_levels).astype(jnp.int32)
    # The place of a term among those of its own level in this batch; of more than HISTORY of them
    # the last stay.
    is_same = level[:, None] == level[None]
    rank = jnp.sum(jnp.tril(is_same, -1), axis=1)
    is_kept = rank >= jnp.sum(is_same, axis=1) - HISTORY
    slot = (state['count'][level] + rank) % HISTORY
    rows = jnp.where(is_kept, level, num_levels)  # beyond the table: dropped
    return {
      'terms': state['terms'].at[rows, slot].set(term, mode='drop'),
      'count': state['count'].at[level].add(1),
    }

  return TimeSampler(init, draw, update)


def importance_probability(state) -> jax.Array:
  """The probability of each level [num_levels] in the state of `importance`."""
  num_levels, _ = state['terms'].shape
  weight = jnp.sqrt(jnp.mean(jnp.square(state['terms']), axis=1))
  weight = (1 - UNIFORM_SHARE) * weight / jnp.sum(weight) + UNIFORM_SHARE / num_levels
  is_warm = jnp.all(state['count'] >= HISTORY) & jnp.any(state['terms'] != 0)
  return jnp.where(is_warm, weight, 1 / num_levels)


def van_der_corput(index):
  """The van der Corput sequence in base 2 at index < 2^24: its bits mirrored at the binary point.

  float32, exactly; 0, 1/2, 1/4, 3/4, 1/8, ... Of the first 2^n points each interval of length 2^-n
  that begins at a multiple of it has one.
  """
  bits = jnp.arange(24)
  digits = (index[..., None] >> bits) & 1
  return jnp.sum(digits * jnp.exp2(-1.0 - bits), axis=-1)


SAMPLERS = ('uniform', 'antithetic', 'importance')


def make(name: str, num_levels: int) -> TimeSampler:
  """The sampler of that name. Raises ValueError for a name that is not in SAMPLERS."""
  if name not in SAMPLERS:
    raise ValueError(f'times is {name!r}; it is one of {", ".join(SAMPLERS)}')
  return {
    'uniform': uniform,
    'antithetic': antithetic,
    'importance': lambda: importance(num_levels),
  }[name]()
