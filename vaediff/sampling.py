"""Samplers of diffusion models: from noise to data along a log-SNR table, each one `lax.scan`.

`ancestral` follows the model's reverse steps (lecture section 4). The others ask only for a
denoiser, predict_x_0(x_t [N, ...], log_snr_t) -> the model's E[x_0 | x_t] [N, ...], so their table
may have other and fewer levels than the one of training (`respace`). All examples are at the same
level: t and log_snr_t are scalars, and what a network makes of them alone it computes once. All
samplers share

    keys: [N], one for each example, which then depends on nothing else in the batch;
    event_shape: the shape of one example;
    x_T: [N, *event_shape], where to start; None draws it from N(0, I), from the keys;
    trajectory: whether to return (x_0, states) with states [T+1, N, ...] from x_T to x_0.

The state at level t is states[T - t]. A run that has come to x_t goes on, pushed or not, as a run
of t steps: with log_snr[: t + 1], or T = t, and x_T = x_t. The noise of a step is folded from the
key and t, so the same keys go on with the same noise: what differs is due to the push alone.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vaediff import forward_process, random

SPACINGS = ('time', 'log_snr')


def respace(log_snr, num_steps: int, spacing: str = 'time') -> np.ndarray:
  """The levels t of a sub-schedule of `num_steps` steps of the table `log_snr` [T+1].

  Returns int64 [num_steps+1]: log_snr[respace(log_snr, S)] is a table of S steps. It keeps the
  levels 0, 1 and T (for one step 0 and T), the others evenly spaced

    in 'time', t from 1 to T, rounded (Nichol & Dhariwal 2021, section 4), or
    in 'log_snr', at the nearest levels that are still free (as Lu et al. 2022a): for few-step
      solvers on schedules that hurry through the log-SNR near t = 1, as the linear one does. It
      reads the table's values, which then cannot be traced.

  Raises ValueError for num_steps outside 1..T and for an unknown `spacing`.
  """
  T = _num_steps(log_snr)
  if not 1 <= num_steps <= T:
    raise ValueError(f'num_steps is {num_steps}; a table of {T} steps has sub-schedules of 1..{T}')
  if spacing not in SPACINGS:
    raise ValueError(f'spacing is {spacing!r}; it is one of {", ".join(SPACINGS)}')
  if spacing == 'time':
    t = np.linspace(T, 1, num_steps)[::-1]
  else:
    falling = -np.asarray(log_snr, np.float64)[1:]
    grid = np.linspace(falling[-1], falling[0], num_steps)[::-1]
    t = np.interp(grid, falling, np.arange(1, T + 1))
  # Distinct levels: one that is taken moves up to the next free one, and none above T.
  i = np.arange(num_steps)
  t = np.minimum(i + np.maximum.accumulate(np.rint(t).astype(int) - i), T - num_steps + 1 + i)
  return np.concatenate([[0], t])


def ancestral(
  keys,
  event_shape: tuple[int, ...],
  reverse_step: Callable,
  T: int,
  noise_scale=1.0,
  *,
  x_T=None,
  trajectory: bool = False,
):
  """x_{t-1} ~ p(x_{t-1} | x_t) for t = T..1 (lecture section 4; Ho et al. 2020, algorithm 2).

  As there, the last step returns the mean of p(x_0 | x_1), with no noise added.

  reverse_step(x_t [N, ...], t) -> Normal: p(x_{t-1} | x_t).
  noise_scale: multiplies the standard deviation of the noise that each step puts back: 1 is the
    model, 0 puts none back. A number or a traced scalar.

  Returns x_0 [N, ...], unclipped; with `trajectory` (x_0, states [T+1, N, ...]). Raises ValueError
  for T < 1 and for an x_T of another shape.
  """
  if T < 1:
    raise ValueError(f'T is {T}; a chain has at least one step')
  x_T, noise_keys = _start(keys, event_shape, x_T)

  def step(x_t, memory, t):
    reverse = reverse_step(x_t, t)
    eps = random.normal(random.fold_in(noise_keys, t), x_t.shape, x_t.dtype)
    noise = jnp.where(t > 1, noise_scale, 0.0).astype(x_t.dtype) * jnp.exp(0.5 * reverse.log_var)
    return reverse.mean + noise * eps, memory

  return _descend(step, x_T, T, trajectory)


def ddim(
  keys,
  event_shape: tuple[int, ...],
  predict_x_0: Callable,
  log_snr,
  eta: float = 0.0,
  *,
  x_T=None,
  trajectory: bool = False,
):
  """Denoising diffusion implicit models (Song et al. 2021, eq. 12 and 16). One call a step.

  With x_0 and eps as predicted, s = t - 1, and r = SNR(t) / SNR(s),

    x_s = signal_s x_0 + sqrt(noise_s^2 - sigma^2) eps + sigma N(0, I),
    sigma = eta noise_s sqrt(1 - r).

  eta: 0 is deterministic, the first-order solver of the probability-flow ODE; 1 is `ancestral`
    with the variance of q(x_s | x_t, x_0), the smaller choice of Ho et al. 2020.
  log_snr: table [T+1].

  Returns x_0 [N, ...], the last prediction; with `trajectory` (x_0, states [T+1, N, ...]). Raises
  ValueError for an eta outside [0, 1], a table with no step and an x_T of another shape.
  """
  _check_eta(eta)
  T = _num_steps(log_snr)
  x_T, noise_keys = _start(keys, event_shape, x_T)
  log_snr = jnp.asarray(log_snr, x_T.dtype)

  def step(x_t, memory, t):
    x_0 = predict_x_0(x_t, log_snr[t])
    return _step(x_0, x_t, log_snr[t - 1], log_snr[t], eta, random.fold_in(noise_keys, t)), memory

  return _descend(step, x_T, T, trajectory)


def dpm_solver_pp_2m(
  keys,
  event_shape: tuple[int, ...],
  predict_x_0: Callable,
  log_snr,
  eta: float = 0.0,
  *,
  x_T=None,
  trajectory: bool = False,
):
  """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2): second order, one call a step.

  The steps of `ddim` with x_0 extrapolated from the last two predictions, linearly in
  lambda = log_snr / 2. The first step, which has one prediction, and the last, which is infinite
  in lambda, are of first order.

  eta: 0 follows the probability-flow ODE; 1 the reverse SDE (the paper's SDE-DPM-Solver++(2M)):
    each step puts back noise of the variance of q(x_s | x_t, x_0), which forgets what the steps
    before have got wrong; between, a part of it.
  log_snr: table [T+1].

  Returns x_0 [N, ...], the last prediction; with `trajectory` (x_0, states [T+1, N, ...]). A run
  that goes on from an x_T begins anew, with no earlier prediction. Raises ValueError for an eta
  outside [0, 1], a table with no step and an x_T of another shape.
  """
  _check_eta(eta)
  T = _num_steps(log_snr)
  x_T, noise_keys = _start(keys, event_shape, x_T)
  log_snr = jnp.asarray(log_snr, x_T.dtype)
  # 1 / (2 r_t) in the paper, r_t = h_{t+1} / h_t, where h_t is the step in lambda from t to t - 1.
  h = log_snr[1:-1] - log_snr[2:]
  extrapolation = jnp.zeros(T + 1, x_T.dtype).at[2:T].set(0.5 * h[:-1] / h[1:])

  def step(x_t, x_0_before, t):
    x_0 = predict_x_0(x_t, log_snr[t])
    ahead = x_0 + extrapolation[t] * (x_0 - x_0_before)
    key = random.fold_in(noise_keys, t)
    return _step(ahead, x_t, log_snr[t - 1], log_snr[t], eta, key), x_0

  return _descend(step, x_T, T, trajectory, memory=jnp.zeros_like(x_T))


def heun(
  keys,
  event_shape: tuple[int, ...],
  predict_x_0: Callable,
  log_snr,
  *,
  x_T=None,
  trajectory: bool = False,
):
  """Heun's method (Karras et al. 2022, algorithm 1): second order, two calls a step.

  Each step averages the predictions at its beginning and at the end of the first-order step; the
  last one, to t = 0, is of first order. It differs from the paper in the variable: there
  x / signal_scale runs along noise / signal, which averages eps; here x / noise_scale along
  signal / noise, which averages x_0. Both are the probability-flow ODE and of second order, but
  the weight of the correction is SNR-ratio^(1/2) - 1 there and at most 1 here: where a schedule
  leaps near t = T, as the cosine one does, few steps of the former diverge.

  log_snr: table [T+1]. Returns x_0 [N, ...], the last prediction; with `trajectory` (x_0, states
  [T+1, N, ...]). Raises ValueError for a table with no step and for an x_T of another shape.
  """
  T = _num_steps(log_snr)
  x_T, _ = _start(keys, event_shape, x_T)
  log_snr = jnp.asarray(log_snr, x_T.dtype)

  def step(x_t, memory, t):
    log_snr_s, log_snr_t = log_snr[t - 1], log_snr[t]
    x_0 = predict_x_0(x_t, log_snr_t)

    def corrected():
      x_s = _step(x_0, x_t, log_snr_s, log_snr_t)
      return 0.5 * (x_0 + predict_x_0(x_s, log_snr_s))

    mean_x_0 = jax.lax.cond(t > 1, corrected, lambda: x_0)
    return _step(mean_x_0, x_t, log_snr_s, log_snr_t), memory

  return _descend(step, x_T, T, trajectory)


# The samplers that need a denoiser alone: one signature, (keys, event_shape, predict_x_0, log_snr).
SOLVERS = {'ddim': ddim, 'dpm_solver_pp_2m': dpm_solver_pp_2m, 'heun': heun}


def _step(x_0, x_t, log_snr_s, log_snr_t, eta: float = 0.0, keys=None):
  """x_s from x_t, s < t, the prediction x_0 held constant on the way; x_0 itself at s = 0.

  Song et al. 2021, eq. 12, with eps = (x_t - signal_t x_0) / noise_t and r = SNR(t) / SNR(s):

    x_s = signal_s x_0 + noise_s (sqrt(kept) eps + sqrt(1 - kept) N(0, I)),
    kept = 1 - eta^2 (1 - r)

  At eta = 0 it is the probability-flow ODE (Lu et al. 2022b, proposition 4.1), at 1 the reverse
  SDE, both exact for constant x_0. keys: [N], of the noise; not read at eta = 0.
  """
  new = -jnp.expm1(log_snr_t - log_snr_s)  # 1 - r
  added = eta**2 * new
  # At eta = 1 the last step keeps nothing of eps: the root's slope at 0 must not become NaN.
  root_kept = jnp.sqrt(jnp.maximum(1 - added, jnp.finfo(x_t.dtype).tiny))
  # 1 - sqrt(kept r), without the cancellation of small steps.
  weight = new * (1 + eta**2 * (1 - new)) / (1 + root_kept * jnp.exp(0.5 * (log_snr_t - log_snr_s)))
  log_noise_ratio = jax.nn.log_sigmoid(-log_snr_s) - jax.nn.log_sigmoid(-log_snr_t)
  x_s = root_kept * jnp.exp(0.5 * log_noise_ratio) * x_t
  x_s += weight * forward_process.signal_scale(log_snr_s) * x_0
  if eta:
    noise_scale = jnp.sqrt(added) * forward_process.noise_scale(log_snr_s)
    x_s += noise_scale * random.normal(keys, x_t.shape, x_t.dtype)
  return x_s


def _check_eta(eta: float):
  if not 0 <= eta <= 1:
    raise ValueError(f'eta is {eta}; it lies in [0, 1], from no noise to that of the posterior')


def _descend(step: Callable, x_T, T: int, trajectory: bool, memory=None):
  """x_{t-1}, memory = step(x_t, memory, t) for t = T..1: x_0, or (x_0, states) with trajectory."""

  def body(state, t):
    state = step(*state, t)
    return state, state[0] if trajectory else None

  (x_0, _), states = jax.lax.scan(body, (x_T, memory), jnp.arange(T, 0, -1))
  return (x_0, jnp.concatenate([x_T[None], states])) if trajectory else x_0


def _start(keys, event_shape: tuple[int, ...], x_T):
  """x_T, drawn from N(0, I) unless it is given, and the keys [N] of the noise of the steps."""
  prior_keys, noise_keys = random.split(keys)
  shape = (*keys.shape, *event_shape)
  if x_T is None:
    return random.normal(prior_keys, shape), noise_keys
  if jnp.shape(x_T) != shape:
    raise ValueError(f'x_T has shape {jnp.shape(x_T)}; these keys and event_shape ask for {shape}')
  return jnp.asarray(x_T), noise_keys


def _num_steps(log_snr) -> int:
  if len(log_snr) < 2:
    raise ValueError('log_snr has no step; a table has at least log_snr[0] = +inf and log_snr[1]')
  return len(log_snr) - 1
