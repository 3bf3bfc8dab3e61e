"""Counted operations, against what they are by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import flops
from vaediff.networks import layers

X, W = np.ones((5, 7), np.float32), np.ones((7, 3), np.float32)
DENSE = 2 * 5 * 7 * 3


def dense(x, w):
  return jnp.tanh(x @ w)


def convolve(x, kernel):
  return jax.lax.conv_general_dilated(
    x, kernel, (2, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def loop(x, w):
  return jax.lax.scan(lambda x, _: (dense(x, w) @ w.T, None), x, length=4)[0]


def one_of_two(x, w):
  return jax.lax.cond(x[0, 0] > 0, dense, lambda x, w: dense(x, w) + x @ w, x, w)


def loss(x, w):
  return jnp.sum(dense(x, w) ** 2)


@pytest.mark.parametrize(
  ('f', 'num_products'),
  [
    (dense, 1),
    (jax.jit(dense), 1),
    (lambda x, w: jax.vmap(lambda row: dense(row[None], w))(x), 1),
    (loop, 8),
    (one_of_two, 2),
    (jax.grad(loss, 1), 2),  # the product itself, and one for the weights
    (jax.grad(loss, (0, 1)), 3),
    (jax.grad(jax.checkpoint(loss), (0, 1)), 4),  # which computes the product once more
  ],
)
def test_products_are_counted(f, num_products):
  assert flops.of_jax(f, X, W) == num_products * DENSE


def test_convolutions_are_counted():
  x, kernel = np.ones((2, 8, 6, 3), np.float32), np.ones((3, 5, 3, 4), np.float32)
  assert flops.of_jax(convolve, x, kernel) == 2 * (2 * 4 * 6 * 4) * (3 * 5 * 3)


@pytest.mark.parametrize('channels', [(3, 4), (64, 48)])
def test_our_convolution_is_counted_with_its_gradients(channels):
  """By its definition, which two gradients take as often, whichever way it is computed."""
  x = np.ones((2, 8, 6, channels[0]), np.float32)
  kernel = np.ones((3, 3, *channels), np.float32)
  forward = 2 * (2 * 8 * 6 * channels[1]) * (3 * 3 * channels[0])
  assert flops.of_jax(layers.conv, x, kernel) == forward
  gradient = jax.grad(lambda x, kernel: jnp.sum(layers.conv(x, kernel) ** 2), (0, 1))
  assert flops.of_jax(gradient, x, kernel) == 3 * forward


def test_a_loop_of_unknown_length_is_refused():
  def f(x):
    return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ jnp.ones((7, 7)), x)

  with pytest.raises(ValueError, match='cannot be counted'):
    flops.of_jax(f, X)
