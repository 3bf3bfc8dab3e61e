"""Likelihoods p(x | parameters) of data on a finite number of levels, and of continuous data.

Data are levels 0 .. num_levels - 1 (17 for digits, 256 for MNIST, 2 for binarised MNIST). Networks
see them centred on [-1, 1]; there the levels lie 2 / (num_levels - 1) apart, and a discretised
density gives each level the mass between the midpoints to its neighbours, the outer levels the
tails as well, so that the probabilities over all levels sum to one (Ho et al. 2020, eq. 13;
Salimans et al. 2017, eq. 2).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy import special

from vaediff import gaussian, random


def center(x, num_levels: int | None):
  """Levels 0 .. num_levels - 1 to float32 on [-1, 1]; None: real numbers, left as they are."""
  x = jnp.asarray(x, jnp.float32)
  return x if num_levels is None else x * (2 / (num_levels - 1)) - 1


def quantize(x, num_levels: int):
  """From [-1, 1] to the nearest of the levels 0 .. num_levels - 1, as uint8; clips outside."""
  return jnp.round((jnp.clip(x, -1, 1) + 1) * ((num_levels - 1) / 2)).astype(jnp.uint8)


def bernoulli_log_prob(x, logits):
  """log p(x) of x in {0, 1}, P(1) = sigmoid(logits). x, logits: [B, ...]. Returns [B] nats."""
  x, logits = x.reshape(x.shape[0], -1), logits.reshape(logits.shape[0], -1)
  return _sum_log_sigmoid(jnp.where(x == 1, logits, -logits))


# Sums that are kept side by side, as many numbers as a processor adds at once; and factors
# 1 + e^-|z| <= 2 that are multiplied before one logarithm is taken of them.
_NUM_LANES, _MOST_FACTORS = 16, 64


@jax.custom_jvp
def _sum_log_sigmoid(z):
  """sum_i log sigmoid(z_i) = sum_i min(z_i, 0) - log prod_i (1 + e^-|z_i|). [B, D] -> [B].

  Factors share a logarithm, which costs more than all else here; the rounding of their product is
  that of float32 sums.
  """
  z = _in_lanes(z, _NUM_LANES * -(-z.shape[1] // (_NUM_LANES * _MOST_FACTORS)))
  log_products = jnp.log(jnp.prod(1 + jnp.exp(-jnp.abs(z)), axis=1))
  return jnp.sum(jnp.sum(jnp.minimum(z, 0), axis=1) - log_products, axis=1)


@_sum_log_sigmoid.defjvp
def _sum_log_sigmoid_jvp(primals, tangents):
  (z,), (z_dot,) = primals, tangents
  return _sum_log_sigmoid(z), jnp.sum(jax.nn.sigmoid(-z) * z_dot, axis=1)


@jax.custom_jvp
def _sum_log1mexp(z):
  """sum_i log(1 - e^-z_i) of z > 0; 0 for those at infinity. [B, D] -> [B].

  By t = tanh(z / 2): 1 - e^-z = 2 t / (1 + t), e^z - 1 = 2 t / (1 - t).
  """
  t = jnp.tanh(_in_lanes(z, _NUM_LANES) / 2)
  return jnp.sum(jnp.sum(jnp.log(2 * t / (1 + t)), axis=1), axis=1)


@_sum_log1mexp.defjvp
def _sum_log1mexp_jvp(primals, tangents):
  (z,), (z_dot,) = primals, tangents
  t = jnp.tanh(z / 2)
  return _sum_log1mexp(z), jnp.sum((1 - t) / (2 * t) * z_dot, axis=1)


def _in_lanes(z, num_lanes: int):
  """[B, D] as [B, ceil(D / num_lanes), num_lanes], filled up with infinities.

  Behind a barrier: inside the sum XLA on CPU would compute z number by number, 20 times as slowly.
  """
  z = jax.lax.optimization_barrier(z)
  z = jnp.pad(z, ((0, 0), (0, -z.shape[1] % num_lanes)), constant_values=jnp.inf)
  return z.reshape(z.shape[0], -1, num_lanes)


def discretized_normal_log_prob(x, mean, log_scale, num_levels: int):
  """log P(level x) under N(mean, exp(log_scale)^2) on [-1, 1] (Ho et al. 2020, eq. 13).

  x: [B, ...] levels. mean, log_scale: broadcast to x. Returns [B] nats. Float32-accurate in both
  tails: a mass right of the mean is measured as its mirror image on the left.
  """
  return _normal_log_prob(x, mean, jnp.exp(-log_scale), num_levels)


def discretized_logistic_log_prob(x, mean, log_scale, num_levels: int):
  """log P(level x) under the logistic distribution with mean and scale exp(log_scale) on [-1, 1].

  x: [B, ...] levels. mean, log_scale: broadcast to x. Returns [B] nats. Salimans et al. 2017,
  eq. 2, with the difference of two sigmoids written as a product, which does not cancel:
  sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - e^(a - b)).
  """
  return _logistic_log_prob(x, mean, jnp.exp(-log_scale), num_levels)


def _normal_log_prob(x, mean, inverse_scale, num_levels: int):
  distance, half_width = center(x, num_levels) - mean, 1 / (num_levels - 1)
  lower, upper = (distance - half_width) * inverse_scale, (distance + half_width) * inverse_scale
  flip = lower + upper > 0
  left, right = jnp.where(flip, -upper, lower), jnp.where(flip, -lower, upper)
  log_right = log_ndtr(right)
  inner = log_right + jnp.log(-jnp.expm1(log_ndtr(left) - log_right))
  outer = jnp.where(x == 0, log_ndtr(upper), log_ndtr(-lower))
  return gaussian.sum_event(jnp.where((x == 0) | (x == num_levels - 1), outer, inner))


def _logistic_log_prob(x, mean, inverse_scale, num_levels: int):
  distance, half_width = center(x, num_levels) - mean, 1 / (num_levels - 1)
  # The outer levels reach to infinity, which leaves one of the three factors.
  is_lowest, is_highest = x == 0, x == num_levels - 1
  below_upper = jnp.where(is_highest, jnp.inf, (distance + half_width) * inverse_scale)
  above_lower = jnp.where(is_lowest, jnp.inf, (half_width - distance) * inverse_scale)
  width = jnp.where(is_lowest | is_highest, jnp.inf, 2 * half_width * inverse_scale)
  below_upper, above_lower, width = (
    z.reshape(len(x), -1) for z in (below_upper, above_lower, width)
  )
  return _sum_log_sigmoid(below_upper) + _sum_log_sigmoid(above_lower) + _sum_log1mexp(width)


@jax.custom_jvp
def log_ndtr(z):
  """The logarithm of the standard normal's distribution function, elementwise.

  SciPy's function with a derivative of its own, pdf(z) / cdf(z): in the left tail, where the
  quotient of two vanishing numbers rounds to anything, it is their continued fraction (Abramowitz
  & Stegun 1964, 26.2.14).
  """
  return special.log_ndtr(z)


@log_ndtr.defjvp
def _log_ndtr_jvp(primals, tangents):
  (z,), (z_dot,) = primals, tangents
  log_cdf = log_ndtr(z)
  x = jnp.maximum(-z, 5.0)
  tail = x + 1 / (x + 2 / (x + 3 / (x + 4 / (x + 5 / x))))
  body = jnp.exp(-0.5 * jnp.square(jnp.maximum(z, -5.0)) - 0.5 * gaussian.LOG_2PI - log_cdf)
  return log_cdf, jnp.where(z < -5.0, tail, body) * z_dot


def level_logits(x_t, log_prior, signal_scale, noise_scale):
  """log p(level k | x_t) up to a constant, by Bayes' rule from q(x_t | level). [B, ..., K].

  p(level k | x_t) is proportional to exp(log_prior_k) N(x_t; signal_scale center(k),
  noise_scale^2), in every dimension by itself. x_t: [B, ...]. log_prior: broadcast to
  [B, ..., K], its constant is free. signal_scale, noise_scale: broadcast to x_t.
  """
  num_levels = log_prior.shape[-1]
  levels = center(jnp.arange(num_levels), num_levels)
  z = (x_t[..., None] - jnp.expand_dims(signal_scale, -1) * levels) / jnp.expand_dims(
    noise_scale, -1
  )
  return log_prior - 0.5 * jnp.square(z)


def level_log_prob(x, x_t, log_prior, signal_scale, noise_scale):
  """log p(x | x_t) by Bayes' rule from q(x_t | x) and a prior over the levels. [B] nats.

  x: [B, ...] levels. The rest as in `level_logits`.
  """
  log_probs = jax.nn.log_softmax(level_logits(x_t, log_prior, signal_scale, noise_scale), axis=-1)
  index = jnp.asarray(x, jnp.int32)[..., None]
  return gaussian.sum_event(jnp.take_along_axis(log_probs, index, axis=-1)[..., 0])


def level_mean(x_t, log_prior, signal_scale, noise_scale):
  """E[x_0 | x_t] on [-1, 1] of a level x_0 with that prior, [B, ...]. Arguments: `level_logits`."""
  logits = level_logits(x_t, log_prior, signal_scale, noise_scale)
  levels = center(jnp.arange(logits.shape[-1]), logits.shape[-1])
  weights = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True)))
  # Both sums of the quotient as one product of matrices, three times as fast on CPU. In float32
  # whatever the device: at small noise the bound multiplies the error of the mean by SNR / 2.
  values = jnp.stack([levels, jnp.ones_like(levels)], axis=-1)
  sums = jnp.matmul(weights, values, precision=jax.lax.Precision.HIGHEST)
  return sums[..., 0] / sums[..., 1]


def nearest_level_log_prob(x, x_t, signal_scale, noise_scale, num_levels: int):
  """`level_log_prob` with a uniform prior: the decoder of Kingma et al. 2021 (section 3.2), with
  nothing to learn. x: [B, ...] levels. x_t: [B, ...]. Returns [B] nats."""
  return level_log_prob(x, x_t, jnp.zeros(num_levels), signal_scale, noise_scale)


class Likelihood(NamedTuple):
  """p(x | outputs of a decoder), as pure functions of the decoder's raw output.

  num_outputs: how many output channels the decoder needs for each channel of the data
  log_prob(outputs [B, ..., num_outputs * C], x [B, ..., C]) -> [B] nats
  mean(outputs) -> x [B, ..., C], the location: the mean of a density, before it is discretised and
    clipped, rounded to the data's own levels where it has levels
  sample(keys [B], outputs) -> x [B, ..., C], a draw, on the data's own levels
  """

  num_outputs: int
  log_prob: Callable
  mean: Callable
  sample: Callable


def bernoulli() -> Likelihood:
  """Bernoulli likelihood of binary data; the decoder outputs logits."""

  def sample(keys, logits):
    return (random.uniform(keys, logits.shape) < jax.nn.sigmoid(logits)).astype(jnp.uint8)

  return Likelihood(
    num_outputs=1,
    log_prob=lambda logits, x: bernoulli_log_prob(x, logits),
    mean=lambda logits: (logits > 0).astype(jnp.uint8),
    sample=sample,
  )


def normal() -> Likelihood:
  """Gaussian likelihood of continuous data; the decoder outputs the mean and the log-scale.

  log_prob is a density: its nats depend on the unit of the data, may be positive, and are not to be
  compared with those of data on levels. mean and sample return real numbers.
  """

  def as_normal(outputs):
    mean, log_scale = jnp.split(outputs, 2, axis=-1)
    return gaussian.Normal(mean, 2 * log_scale)

  return Likelihood(
    num_outputs=2,
    log_prob=lambda outputs, x: gaussian.log_prob(as_normal(outputs), x),
    mean=lambda outputs: as_normal(outputs).mean,
    sample=lambda keys, outputs: gaussian.sample(keys, as_normal(outputs)),
  )


def discretized_normal(num_levels: int, scale: float | None = None) -> Likelihood:
  """Discretised Gaussian; the decoder outputs the mean and, unless scale is given, the log-scale.

  scale: a fixed standard deviation in units of [-1, 1].
  """
  return _location_scale(num_levels, scale, _normal_log_prob, random.normal)


def discretized_logistic(num_levels: int, scale: float | None = None) -> Likelihood:
  """Discretised logistic; the decoder outputs the mean and, unless scale is given, the log-scale.

  scale: a fixed scale parameter in units of [-1, 1].
  """
  return _location_scale(num_levels, scale, _logistic_log_prob, random.logistic)


def _location_scale(num_levels: int, scale: float | None, level_log_prob, noise) -> Likelihood:
  def split(outputs):
    """The location, and the inverse of the scale."""
    if scale is not None:
      return outputs, 1 / scale
    mean, log_scale = jnp.split(outputs, 2, axis=-1)
    # Softly bounded below at a tenth of the distance of two levels: past that, all mass is on one
    # level, where the gradient of the log-scale vanishes while its value runs away. The scale is
    # floor + exp(log_scale), by sigmoids in place of logarithms.
    floor = 0.2 / (num_levels - 1)
    return mean, jax.nn.sigmoid(math.log(floor) - log_scale) / floor

  def sample(keys, outputs):
    mean, inverse_scale = split(outputs)
    return quantize(mean + noise(keys, mean.shape) / inverse_scale, num_levels)

  return Likelihood(
    num_outputs=2 if scale is None else 1,
    log_prob=lambda outputs, x: level_log_prob(x, *split(outputs), num_levels),
    mean=lambda outputs: quantize(split(outputs)[0], num_levels),
    sample=sample,
  )
