"""Muon's orthogonal updates, computed through Gram matrices.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) replaces the momentum of each
matrix by a nearby (semi-)orthogonal one. Its iteration on the m x n matrix itself takes 4 m n^2 +
2 n^3 multiplications and additions a step; the kernel of a 3 x 3 convolution has m = 9 n or more.
Here all products but the first and the last are of n x n matrices (`benchmarks/muon.py`).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

# Of the polynomial a s + b s^3 + c s^5 that takes singular values in (0, 1] near 1 (Jordan et al.
# 2024).
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class MuonState(NamedTuple):
  """count: int32 scalar, the number of updates. momentum: a tree as the parameters."""

  count: jax.Array
  momentum: Any


def scale_by_muon(beta: float, eps: float) -> optax.GradientTransformation:
  """Nesterov's momentum, bias-corrected, with each array made orthogonal.

  Arrays of two axes or more, [..., n], are matrices [m, n]. They are scaled to the root mean square
  0.2, that of Adam's updates, whatever their shape (Liu et al. 2025, section 2.2). beta: of the
  momentum. eps: added to the norm that a matrix is divided by.
  """

  def init(params):
    return MuonState(jnp.zeros((), jnp.int32), optax.tree.zeros_like(params))

  def update(grads, state, params=None):
    del params
    count = state.count + 1
    momentum = optax.tree.update_moment(grads, state.momentum, beta, 1)
    ahead = optax.tree.bias_correction(momentum, beta, count + 1)
    now = optax.tree.bias_correction(grads, beta, count)

    def matrix(ahead, now):
      return (beta * ahead + (1 - beta) * now).reshape(-1, now.shape[-1])

    leaves, structure = jax.tree.flatten(jax.tree.map(matrix, ahead, now))
    updates = [
      0.2 * max(x.shape) ** 0.5 * x_o for x, x_o in zip(leaves, orthogonalize(leaves, eps))
    ]
    updates = jax.tree.map(lambda u, g: u.reshape(g.shape), structure.unflatten(updates), grads)
    return updates, MuonState(count, momentum)

  return optax.GradientTransformation(init, update)


def orthogonalize(
  matrices: Sequence[jax.Array], eps: float = 1e-8, num_steps: int = 5
) -> list[jax.Array]:
  """U p(S) V^T for each x = U S V^T [m, n], where p takes the singular values to about 0.7 to 1.2.

  p is num_steps times the polynomial of Jordan et al. 2024, after a division by the Frobenius norm
  plus eps. A step takes x to x Q, where Q is a polynomial of x^T x; those of all steps commute, and
  x is multiplied by their product. On accelerators matrices with a shorter side of the same length
  go through the steps as one stack, which is fewer operations to start.

  Singular values below 3e-4 of the largest, whose squares x^T x does not resolve in float32, come
  out with errors of that size; hence the products are of full precision, also where those of
  networks are not (TF32 on GPUs, bfloat16 on TPUs).
  """
  with jax.default_matmul_precision('float32'):
    tall = [x.T if x.shape[0] < x.shape[1] else x for x in matrices]
    tall = [x / (jnp.linalg.norm(x) + eps) for x in tall]
    if jax.default_backend() == 'cpu':  # where a product of stacks takes longer than one by one
      tall = [x @ _polynomial(x.T @ x, num_steps) for x in tall]
    else:
      stacks = {}
      for i, x in enumerate(tall):
        stacks.setdefault(x.shape[1], []).append(i)
      for places in stacks.values():
        products = _polynomial(jnp.stack([tall[i].T @ tall[i] for i in places]), num_steps)
        for i, product in zip(places, products, strict=True):
          tall[i] = tall[i] @ product
  return [y.T if x.shape[0] < x.shape[1] else y for x, y in zip(matrices, tall, strict=True)]


def _polynomial(gram, num_steps: int):
  """The Q with x Q = U p(S) V^T, from x^T x: [..., n, n] -> [..., n, n]."""
  a, b, c = _COEFFICIENTS
  identity, product = jnp.eye(gram.shape[-1], dtype=gram.dtype), None
  for step in range(num_steps):
    factor = a * identity + b * gram + c * (gram @ gram)
    product = factor if product is None else product @ factor
    if step < num_steps - 1:
      gram = factor @ gram @ factor
  return product
