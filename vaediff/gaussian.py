"""Gaussian distributions: sampling, density, entropy and KL divergence in closed form.

A distribution is a NamedTuple of arrays with a leading batch axis; functions return `[B]`, in nats.
Lecture section 3.1 (mean and square root of the covariance) and 3.2 (KL against N(0, I)).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from vaediff import random

LOG_2PI = math.log(2 * math.pi)


class Normal(NamedTuple):
  """N(mean, diag(exp(log_var))), every axis but the first being one event.

  mean, log_var: [B, ...], broadcast against each other. A log_var of -inf is a point mass: it can
  be sampled, its density and divergences are infinite.
  """

  mean: jax.Array
  log_var: jax.Array


class MultivariateNormal(NamedTuple):
  """N(mean, L L^T) with L = scale_tril (lecture section 3.1: "the square root of the covariance").

  mean: [B, D]. scale_tril: [B, D, D], lower triangular with a positive diagonal; what stands above
  the diagonal is never read.
  """

  mean: jax.Array
  scale_tril: jax.Array


Gaussian = Normal | MultivariateNormal


def sample(key, q: Gaussian):
  """One reparameterised draw per example: mean + scale * eps, eps ~ N(0, I). Returns [B, ...].

  key: one PRNG key for the whole batch, or a batch of keys [B], one for each example, which makes
  the draw independent of how the batch is split over devices.
  """
  if isinstance(q, Normal):
    mean, log_var = jnp.broadcast_arrays(q.mean, q.log_var)
    return mean + jnp.exp(0.5 * log_var) * random.normal(key, mean.shape, mean.dtype)
  eps = random.normal(key, q.mean.shape, q.mean.dtype)
  return q.mean + jnp.einsum('bij,bj->bi', jnp.tril(q.scale_tril), eps)


def log_prob(q: Gaussian, x):
  """log q(x) in nats, [B]. x: [B, ...]."""
  if isinstance(q, Normal):
    z_squared = jnp.square(x - q.mean) * jnp.exp(-q.log_var)
    return -0.5 * sum_event(z_squared + q.log_var + LOG_2PI)
  z = _solve(q.scale_tril, x - q.mean)
  return -0.5 * sum_event(jnp.square(z) + LOG_2PI) - sum_event(jnp.log(_diagonal(q.scale_tril)))


def entropy(q: Gaussian):
  """The differential entropy -E_q[log q(x)] in nats, [B]."""
  if isinstance(q, Normal):
    log_var = jnp.broadcast_to(q.log_var, jnp.broadcast_shapes(q.mean.shape, q.log_var.shape))
    return 0.5 * sum_event(log_var + LOG_2PI + 1)
  return sum_event(0.5 * (LOG_2PI + 1) + jnp.log(_diagonal(q.scale_tril)))


def kl(q: Gaussian, p: Gaussian):
  """KL(q | p) = E_q[log q - log p] in nats, [B], for any pair of the two types (lecture 3.2).

  Accurate in float32 also where q and p almost agree: the textbook formula subtracts numbers of
  order one, this one only their differences. Where the types differ, the event of the `Normal` is
  flattened to [B, D].
  """
  if isinstance(q, Normal) and isinstance(p, Normal):
    log_ratio = q.log_var - p.log_var
    distance = jnp.square(q.mean - p.mean) * jnp.exp(-p.log_var)
    return 0.5 * sum_event(expm1_minus_identity(log_ratio) + distance)
  q, p = _as_multivariate(q), _as_multivariate(p)
  # L_p^-1 L_q = I + excess: the divergence is a sum of squares and of e^u - 1 - u.
  excess = jnp.tril(_solve_matrix(p.scale_tril, jnp.tril(q.scale_tril) - jnp.tril(p.scale_tril)))
  log_ratio = 2 * _log1p_ratio(_diagonal(excess), _diagonal(q.scale_tril), _diagonal(p.scale_tril))
  off_diagonal = sum_event(jnp.square(jnp.tril(excess, -1)))
  distance = sum_event(jnp.square(_solve(p.scale_tril, q.mean - p.mean)))
  return 0.5 * (sum_event(expm1_minus_identity(log_ratio)) + off_diagonal + distance)


def kl_to_standard_normal(q: Gaussian):
  """KL(q | N(0, I)) in nats, [B] (lecture 3.2: 1/2 (tr S + |mu|^2 - k - log det S))."""
  if isinstance(q, Normal):
    return kl(q, Normal(jnp.zeros_like(q.mean), jnp.zeros_like(q.log_var)))
  # As `kl`, without its triangular solves: they would be with the identity.
  diagonal = _diagonal(q.scale_tril)
  log_ratio = 2 * _log1p_ratio(diagonal - 1, diagonal, jnp.ones_like(diagonal))
  off_diagonal = sum_event(jnp.square(jnp.tril(q.scale_tril, -1)))
  distance = sum_event(jnp.square(q.mean))
  return 0.5 * (sum_event(expm1_minus_identity(log_ratio)) + off_diagonal + distance)


def kl_to_standard_normal_per_dimension(q: Normal):
  """The part of KL(q | N(0, I)) that each dimension has, in nats: [B, ...]."""
  mean, log_var = jnp.broadcast_arrays(q.mean, q.log_var)
  return 0.5 * (expm1_minus_identity(log_var) + jnp.square(mean))


def expm1_minus_identity(u):
  """e^u - 1 - u, elementwise and non-negative, to float32's relative accuracy for every u.

  `expm1(u) - u` cancels for small u: at u = 1e-4 three digits are left, at 1e-7 none.
  """
  series = jnp.clip(u, -0.5, 0.5)
  term, total = 0.5 * jnp.square(series), 0.0
  for n in range(3, 10):
    total += term
    term *= series / n
  return jnp.where(jnp.abs(u) < 0.5, total + term, jnp.expm1(u) - u)


def sum_event(x):
  """Sums over every axis but the first: [B, ...] -> [B]."""
  return jnp.sum(x, axis=tuple(range(1, x.ndim)))


def _diagonal(matrix):
  return jnp.diagonal(matrix, axis1=-2, axis2=-1)


def _solve(scale_tril, x):
  return _solve_matrix(scale_tril, x[..., None])[..., 0]


def _solve_matrix(scale_tril, x):
  return solve_triangular(scale_tril, x, lower=True)


def _log1p_ratio(excess, q, p):
  """log(q / p) for positive q, p, given excess = q / p - 1, which is the accurate one near 0."""
  is_near = jnp.abs(excess) < 0.5
  return jnp.where(is_near, jnp.log1p(jnp.where(is_near, excess, 0.0)), jnp.log(q) - jnp.log(p))


def _as_multivariate(q: Gaussian) -> MultivariateNormal:
  if isinstance(q, MultivariateNormal):
    return q
  mean, log_var = jnp.broadcast_arrays(q.mean, q.log_var)
  scale = jnp.exp(0.5 * log_var.reshape(log_var.shape[0], -1))
  return MultivariateNormal(mean.reshape(scale.shape), jax.vmap(jnp.diag)(scale))
