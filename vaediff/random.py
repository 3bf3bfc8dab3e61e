"""Keys of the pseudo-random numbers: one for each example.

One seed decides everything. The key of an example is folded from (seed, step, global index of the
example), so a number depends neither on how the batch is split over devices and hosts nor on what
was drawn before it. Functions here take one key, or a batch of keys [B], one for each example.
"""

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32


def example_keys(key, step, index):
  """The keys [B] of the examples with a global index [B] at a step: fold_in(key, step, index)."""
  step_key = jax.random.fold_in(key, step)
  return jax.vmap(jax.random.fold_in, (None, 0))(step_key, index)


def split(keys, num: int = 2):
  """Splits a key, or each of the keys [B], into `num`: a tuple to unpack into named keys."""
  if keys.ndim == 0:
    return tuple(jax.random.split(keys, num))
  return tuple(jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, num))(keys), 0, 1))


def fold_in(keys, data):
  """Folds a scalar or [B] integer into each of the keys [B]."""
  return jax.vmap(jax.random.fold_in)(keys, jnp.broadcast_to(data, keys.shape))


def normal(keys, shape, dtype=jnp.float32):
  """eps ~ N(0, I) of shape [B, ...]."""
  return _draw(jax.random.normal, keys, shape, dtype)


def logistic(keys, shape, dtype=jnp.float32):
  """Standard logistic noise of shape [B, ...]."""
  return _draw(jax.random.logistic, keys, shape, dtype)


def uniform(keys, shape, dtype=jnp.float32):
  """Uniform on [0, 1), of shape [B, ...]."""
  return _draw(jax.random.uniform, keys, shape, dtype)


def integers(keys, minval: int, maxval: int):
  """Uniform on minval, ..., maxval - 1: one for each of the keys [B], int32."""
  return jax.vmap(lambda key: jax.random.randint(key, (), minval, maxval, jnp.int32))(keys)


def bits_16(keys, size: int):
  """Uniform on 0 .. 2^16 - 1, independent: [B, size] uint32.

  Each hash of a counter gives two words of 32 bits, and each word two numbers. The hashes are the
  cost, and `jax.random.bits` throws half of each away, of 16 bits another half.

  keys: [B], of JAX's default kind, Threefry (Salmon et al. 2011).
  """
  count = jnp.arange(2 * -(-size // 4), dtype=jnp.uint32)
  words = jax.vmap(lambda key: threefry_2x32(key, count))(jax.random.key_data(keys))
  return jnp.concatenate([words & 0xFFFF, words >> 16], axis=1)[:, :size]


def _draw(draw, keys, shape, dtype):
  if keys.ndim == 0:
    return draw(keys, shape, dtype)
  return jax.vmap(lambda key: draw(key, shape[1:], dtype))(keys)
