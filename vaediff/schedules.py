"""Noise schedules as tables of log signal-to-noise ratios; schedules of the KL weight.

A noise schedule of T steps is one float64 table `log_snr`, shape [T+1], strictly decreasing from
`log_snr[0] = +inf` (clean data) to `log_snr[T]` (almost pure noise). With it

    q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I),  alpha_bar_t = sigmoid(log_snr[t])

(lecture section 4, where alpha_bar is written alpha). Tables are built in float64 and cast once,
where they meet float32 arrays.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


def linear(T: int, beta_first: float = 1e-4, beta_last: float = 0.02) -> np.ndarray:
  """The schedule of Ho et al. 2020: beta_t linear in t from beta_first to beta_last. [T+1].

  beta_t is the variance that step t adds: x_t = sqrt(1 - beta_t) x_{t-1} + N(0, beta_t). The
  defaults are the paper's, meant for T = 1000; for another T, scaling both by 1000 / T keeps
  log_snr[T] about where it is. Raises ValueError for T < 1 and for a beta outside (0, 1).
  """
  _check_num_steps(T)
  for name, beta in (('beta_first', beta_first), ('beta_last', beta_last)):
    if not 0 < beta < 1:
      raise ValueError(f'{name} is {beta}; a variance that a step adds lies inside (0, 1)')
  return from_betas(np.linspace(beta_first, beta_last, T))


def cosine(T: int) -> np.ndarray:
  """The schedule of Nichol & Dhariwal 2021, eq. 17, with s = 0.008 and betas <= 0.999. [T+1].

  alpha_bar_t = f(t) / f(0), f(t) = cos^2((t/T + s) / (1 + s) pi/2). Raises ValueError for T < 1.
  """
  _check_num_steps(T)
  s = 0.008
  f = np.cos((np.arange(T + 1) / T + s) / (1 + s) * np.pi / 2) ** 2
  return from_betas(np.minimum(1 - f[1:] / f[:-1], 0.999))


def linear_log_snr(T: int, first: float = 13.3, last: float = -5.0) -> np.ndarray:
  """log_snr linear in t from `first` at t = 1 to `last` at t = T. [T+1].

  The initial schedule of Kingma et al. 2021 (appendix H): at 13.3 the noise is a third of half a
  level of 8-bit data, so that the decoder term is nearly free. Raises ValueError for T < 1 and
  where the table would not decrease.
  """
  _check_num_steps(T)
  if first <= last:
    raise ValueError(f'first {first} <= last {last}; the log-SNR has to fall from first to last')
  return np.concatenate([[np.inf], np.linspace(first, last, T)])


def from_betas(betas: np.ndarray) -> np.ndarray:
  """The log-SNR table [T+1] of the variances that the steps add, betas [T] inside (0, 1)."""
  log_alpha_bar = np.cumsum(np.log1p(-np.asarray(betas, np.float64)))
  return np.concatenate([[np.inf], log_alpha_bar - np.log(-np.expm1(log_alpha_bar))])


class Learned(NamedTuple):
  """A noise schedule with parameters, to be learned by the gradient of the bound.

  T: the number of steps. init() -> params. table(params) -> log_snr [T+1], float32.
  """

  T: int
  init: Callable[[], Any]
  table: Callable[[Any], jax.Array]


def learned(T: int, first: float = 13.3, last: float = -5.0, num_units: int = 16) -> Learned:
  """A monotone schedule whose ends and shape are learned (Kingma et al. 2021, appendix H).

  log_snr = first - range m(u), u = (t - 1) / (T - 1), with m monotone from 0 to 1: a line and
  num_units sigmoids, with positive weights and slopes, as in the paper's monotone network. At
  initialisation it is `linear_log_snr(T, first, last)` but for a hundredth. Raises ValueError for
  T < 2 and where the table would not decrease.
  """
  linear_log_snr(T, first, last)  # raises what is wrong with the three
  if T < 2:
    raise ValueError(f'T is {T}; a learned schedule has at least two steps')

  def init():
    return {
      'first': jnp.float32(first),
      'range': _inverse_softplus(first - last),
      'line': _inverse_softplus(1.0),
      'weights': jnp.full(num_units, _inverse_softplus(0.01 / num_units)),
      'slopes': jnp.full(num_units, _inverse_softplus(float(num_units))),
      'centers': (jnp.arange(num_units) + 0.5) / num_units,
    }

  def table(params):
    u = jnp.linspace(0.0, 1.0, T)
    slopes = jax.nn.softplus(params['slopes'])
    units = jax.nn.sigmoid(slopes * (u[:, None] - params['centers']))
    weights = jax.nn.softplus(params['weights'])
    bent = jnp.matmul(units, weights, precision=jax.lax.Precision.HIGHEST)
    height = jax.nn.softplus(params['line']) * u + bent
    share = (height - height[0]) / (height[-1] - height[0])
    finite = params['first'] - jax.nn.softplus(params['range']) * share
    return jnp.concatenate([jnp.full(1, jnp.inf), finite])

  return Learned(T, init, table)


def linear_kl_weight(beta: float, warmup_steps: int = 0, start: int = 0) -> Callable:
  """step -> weight of the KL: 0 up to `start`, then linear to beta within warmup_steps.

  start = warmup_steps = 0 is the constant beta (Higgins et al. 2017); start = 0 the warm-up of
  Bowman et al. 2016 and Sonderby et al. 2016; start > 0 lets reconstruction have the early steps
  for itself (lecture section 3.4). Raises ValueError for a negative argument.
  """
  for name, value in (('beta', beta), ('warmup_steps', warmup_steps), ('start', start)):
    if value < 0:
      raise ValueError(f'{name} is {value}; it has to be at least 0')
  if warmup_steps == 0:
    return lambda step: jnp.where(step < start, 0.0, beta)
  return optax.linear_schedule(0.0, beta, warmup_steps, start)


def cyclical_kl_weight(beta: float, period: int, ramp: float = 0.5) -> Callable:
  """step -> weight of the KL: in each period linear from 0 to beta, then beta for the rest.

  Fu et al. 2019, eq. 6-7. ramp: the share of the period that rises. Raises ValueError for a
  negative beta, a period below 1 and a ramp outside (0, 1].
  """
  if beta < 0 or period < 1 or not 0 < ramp <= 1:
    raise ValueError(
      f'beta, period and ramp are {beta}, {period}, {ramp}; beta is at least 0, period at least 1, '
      'ramp in (0, 1]'
    )
  return lambda step: beta * jnp.minimum((step % period) / (ramp * period), 1.0)


def _check_num_steps(T: int) -> None:
  if T < 1:
    raise ValueError(f'T is {T}; a noise schedule has at least one step')


def _inverse_softplus(x: float) -> jax.Array:
  return jnp.float32(x + np.log(-np.expm1(-x)))
