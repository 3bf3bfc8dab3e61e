"""Uniform distributions on boxes, the other of the lecture's candidates for codes (section 3.1).

Functions return `[B]`, in nats.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vaediff import random
from vaediff.gaussian import sum_event


class Box(NamedTuple):
  """The uniform distribution on the box lower < z < lower + exp(log_width).

  lower, log_width: [B, D].
  """

  lower: jax.Array
  log_width: jax.Array


def box_inside_unit_cube(outputs) -> Box:
  """The box that 2 D numbers [B, 2 D] of any size stand for, strictly inside the unit cube.

  The first half, through a sigmoid, is the width of each side; the second, through a sigmoid, says
  where between its two extreme places the side lies.
  """
  width, place = jnp.split(outputs, 2, axis=-1)
  # 1 - width = sigmoid(-width): the room that is left.
  return Box(jax.nn.sigmoid(place) * jax.nn.sigmoid(-width), jax.nn.log_sigmoid(width))


def sample(key, q: Box):
  """One reparameterised draw per example: lower + width * u, u uniform on [0, 1). [B, D].

  key: one PRNG key for the whole batch, or a batch of keys [B].
  """
  return q.lower + jnp.exp(q.log_width) * random.uniform(key, q.lower.shape, q.lower.dtype)


def log_prob(q: Box, z):
  """log q(z) in nats, [B]: minus the log-volume inside the box, -inf outside. z: [B, D]."""
  is_inside = jnp.all((z >= q.lower) & (z <= q.lower + jnp.exp(q.log_width)), axis=-1)
  return jnp.where(is_inside, -sum_event(q.log_width), -jnp.inf)


def kl_to_unit_cube(q: Box):
  """KL(q | uniform on the unit cube) = -log volume in nats, [B], for a box inside the cube."""
  return -sum_event(q.log_width)
