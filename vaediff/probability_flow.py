"""Exact log-likelihood of a diffusion model by its probability-flow ODE.

A denoiser, predict_x_0(x_t [B, ...], log_snr_t, a scalar) -> the model's E[x_0 | x_t] [B, ...],
stands for a score, and with it for an ODE that carries N(0, I) at the largest noise to the model's
density at the smallest (Song et al. 2021, section 4.3). In x_t itself, along lambda = log_snr, it
is

    dx / d lambda = 1/2 signal_scale (x_0_hat(x, lambda) - signal_scale x),

and along the way log p(x) changes by minus the divergence of the right-hand side (Chen et al. 2018,
theorem 1). With this choice of variables nothing is stiff at either end: x stays of the size of the
data or of the noise, and for Gaussian data, of any variance, the derivative of the right-hand side
in x lies between -1/2 and 1/2 at every lambda.

The density is that of the ODE, not of the reverse chain, which `bounds` bounds: for the optimal
denoiser the two agree, for a learned one they differ. x_0_hat has to be smooth in x: not clipped.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from vaediff import forward_process, gaussian, likelihoods, random

DIVERGENCES = ('exact', 'hutchinson')


def log_likelihood(
  keys,
  x,
  predict_x_0: Callable,
  log_snr_first,
  log_snr_last,
  num_steps: int,
  divergence: str = 'exact',
  num_probes: int = 1,
):
  """log p(x) in nats, [B], for x = x_t at log_snr_first, the model's smallest noise.

  log p(x) = log N(x_last; 0, I) + log |d x_last / d x|, both from `transport`, which documents the
  arguments. Of data x_0 it is asked with x = signal_scale(log_snr_first) x_0: their density under
  the model is then log p(x) + D log signal_scale(log_snr_first), and includes the noise left at
  log_snr_first. With 'hutchinson' it is unbiased; its exponential is not.
  """
  x_last, log_det = transport(
    keys, x, predict_x_0, log_snr_first, log_snr_last, num_steps, divergence, num_probes
  )
  return gaussian.log_prob(gaussian.Normal(jnp.zeros_like(x), jnp.zeros_like(x)), x_last) + log_det


def transport(
  keys,
  x,
  predict_x_0: Callable,
  log_snr_first,
  log_snr_last,
  num_steps: int,
  divergence: str = 'exact',
  num_probes: int = 1,
):
  """The ODE's solution x_last at log_snr_last, from x at log_snr_first, and log |d x_last / d x|.

  By the classical Runge-Kutta method in num_steps equal steps of log-SNR, each four evaluations of
  the denoiser and of its divergence, in one `lax.scan`: the error falls like num_steps^-4.

  keys: [B], read by 'hutchinson' alone. x: [B, ...]. log_snr_first, log_snr_last: finite scalars;
  exchanged, the way back.
  divergence: 'exact', D reverse-mode derivatives for x of D dimensions, or 'hutchinson', the
    unbiased estimate from num_probes of them (Grathwohl et al. 2019), along directions of
    independent signs which each example keeps all the way.

  Returns (x_last [B, ...], log |d x_last / d x| [B]). Raises ValueError for an unknown divergence
  and for num_steps or num_probes below 1.
  """
  if divergence not in DIVERGENCES:
    raise ValueError(f'divergence is {divergence!r}; it is one of {", ".join(DIVERGENCES)}')
  for name, value in (('num_steps', num_steps), ('num_probes', num_probes)):
    if value < 1:
      raise ValueError(f'{name} is {value}; it is at least 1')
  event_shape, dim = x.shape[1:], x[0].size
  if divergence == 'exact':
    directions = jnp.eye(dim, dtype=x.dtype).reshape(dim, 1, *event_shape)
  else:
    directions = _signs(keys, (num_probes, *event_shape), x.dtype) / math.sqrt(num_probes)

  def slope(x, log_snr):
    """d x / d log_snr and its divergence, the trace sum_v v J v over the directions v."""
    x_0, vjp = jax.vjp(lambda x: predict_x_0(x, log_snr), x)

    def along(v):
      v = jnp.broadcast_to(v, x.shape)
      return gaussian.sum_event(v * vjp(v)[0])

    trace = jnp.sum(jax.lax.map(along, directions), axis=0)
    signal = forward_process.signal_scale(log_snr)
    return 0.5 * signal * (x_0 - signal * x), 0.5 * signal * (trace - signal * dim)

  start, width = jnp.asarray(log_snr_first, x.dtype), log_snr_last - log_snr_first
  h = jnp.asarray(width / num_steps, x.dtype)

  def step(state, i):
    x, log_det = state
    log_snr = start + i * h
    dx_1, div_1 = slope(x, log_snr)
    dx_2, div_2 = slope(x + 0.5 * h * dx_1, log_snr + 0.5 * h)
    dx_3, div_3 = slope(x + 0.5 * h * dx_2, log_snr + 0.5 * h)
    dx_4, div_4 = slope(x + h * dx_3, log_snr + h)
    x += h / 6 * (dx_1 + 2 * dx_2 + 2 * dx_3 + dx_4)
    return (x, log_det + h / 6 * (div_1 + 2 * div_2 + 2 * div_3 + div_4)), None

  zeros = jnp.zeros(x.shape[0], x.dtype)
  (x, log_det), _ = jax.lax.scan(step, (x, zeros), jnp.arange(num_steps))
  return x, log_det


def dequantized_log_likelihood(
  keys,
  x,
  num_levels: int,
  predict_x_0: Callable,
  log_snr_first,
  log_snr_last,
  num_steps: int,
  divergence: str = 'exact',
  num_probes: int = 1,
):
  """One draw of a lower bound on log P(x), for x on levels, by uniform dequantisation. [B] nats.

  On [-1, 1], where networks see the data, a level is a cell of width w = 2 / (num_levels - 1), and
  P(x) the mass of the model's density there: with y uniform on the cell of x, in every dimension,

    E[log p(y)] + D log w <= log E[p(y)] + D log w = log P(x)     (Theis et al. 2016, section 3.1).

  The density is the model's for data at its smallest noise, p(y) = p(x_t = signal y) signal^D with
  signal = signal_scale(log_snr_first): the noise left there should be small beside w. Several draws
  through `bounds.streamed_importance_weighted` come closer to log P(x), with divergence 'exact'.

  x: [B, ...] levels 0 .. num_levels - 1. The other arguments and what raises as in `transport`.
  """
  noise_keys, probe_keys = random.split(keys)
  cell = 2 / (num_levels - 1)
  y = likelihoods.center(x, num_levels) + cell * (random.uniform(noise_keys, x.shape) - 0.5)
  signal = forward_process.signal_scale(log_snr_first)
  log_prob = log_likelihood(
    probe_keys,
    signal * y,
    predict_x_0,
    log_snr_first,
    log_snr_last,
    num_steps,
    divergence,
    num_probes,
  )
  return log_prob + x[0].size * (jnp.log(signal) + math.log(cell))


def _signs(keys, shape, dtype):
  """Independent signs, +1 or -1 alike, for each of the keys: [shape[0], B, *shape[1:]]."""
  return jax.vmap(lambda key: jax.random.rademacher(key, shape, dtype), out_axes=1)(keys)
