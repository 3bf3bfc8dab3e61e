"""The reverse process of diffusion: p(x_{t-1} | x_t) from what a network outputs.

    p(x_{t-1} | x_t) = N(mean of q(x_{t-1} | x_t, x_0 = prediction), diag(exp(log_var)))

The network may predict the noise eps, the data x_0, v or what level x_0 has: through the pivot x_0
each gives the mean (lecture section 4, key ideas 1 and 2; Ho et al. 2020, section 3.2; Salimans &
Ho 2022, section 4; Gulrajani & Hashimoto 2023).
The variance is one of Ho et al.'s two choices, learned for each pixel, or the optimal one, fitted
to data (lecture section 4: "mean and covariance").
"""

import jax.numpy as jnp
import numpy as np

from vaediff import analytic, forward_process, likelihoods
from vaediff.forward_process import over_event

PREDICTIONS = ('eps', 'x_0', 'v', 'levels')
FIXED_VARIANCES = ('fixed_small', 'fixed_large')
LEARNED_VARIANCES = ('interpolated', 'free')
VARIANCES = (*FIXED_VARIANCES, *LEARNED_VARIANCES, 'optimal')

# A freely learned variance stays within e^+-FREE_RANGE of the larger fixed one: far beyond what any
# data ask for, and near enough that no KL overflows.
FREE_RANGE = 10.0


def x_0_from(prediction: str, x_t, output, log_snr_t):
  """The x_0 that a network's output [B, ..., C] stands for. prediction: one of PREDICTIONS.

  'levels': the output [B, ..., C K] is a log-prior over the K levels of each channel in turn, up to
  a constant. Bayes' rule adds log q(x_t | level), what the dimension itself shows, and x_0 is the
  mean of the result (the "output prior" of Gulrajani & Hashimoto 2023): left to the network is how
  the dimensions depend on each other; which levels there are, and the noise, it need not learn.
  """
  if prediction == 'eps':
    return forward_process.x_0_from_eps(x_t, output, log_snr_t)
  if prediction == 'v':
    return forward_process.x_0_from_v(x_t, output, log_snr_t)
  if prediction == 'levels':
    scales = forward_process.scales(log_snr_t, x_t)
    return likelihoods.level_mean(x_t, level_log_prior(x_t, output), *scales)
  return output


def level_log_prior(x_t, output):
  """The output [B, ..., C K] of the prediction 'levels', as [B, ..., C, K]."""
  return output.reshape(*x_t.shape, -1)


def fixed_log_var(log_snr, variance: str):
  """The log-variances of p(x_{t-1} | x_t) for t = 1..T, as [T] (index t - 1).

  log_snr: table [T+1]. variance: one of FIXED_VARIANCES (Ho et al. 2020, section 3.2):
  'fixed_small', the variance of q(x_{t-1} | x_t, x_0), or 'fixed_large', that of q(x_t | x_{t-1}).
  """
  s, t = log_snr[:-1], log_snr[1:]
  if variance == 'fixed_large':
    return forward_process.transition_log_var(s, t)
  # q(x_0 | x_1, x_0) is a point: t = 1 takes the value of t = 2, as Ho et al. do; for T = 1, where
  # there is none, the larger choice.
  if len(t) == 1:
    return forward_process.transition_log_var(s, t)
  # The point's log-variance -inf must not meet the gradient of a learned schedule: t = 1 is not
  # computed at all.
  small = forward_process.posterior_log_var(s[1:], t[1:])
  return jnp.concatenate([small[:1], small])


def learned_log_var(log_snr, t, output, variance: str):
  """The log-variance of p(x_{t-1} | x_t) for each pixel, from what a network outputs. [B, ...].

  log_snr: table [T+1]. t: a scalar or [B]. output: [B, ...], 0 at initialisation. variance:
  'interpolated', in log space between the two fixed ones, by the share (output + 1) / 2 of the
  larger, unbounded (Nichol & Dhariwal 2021, eq. 15); or 'free', that of the larger times
  exp(output), softly bounded to within e^+-FREE_RANGE of it.
  """
  large = over_event(fixed_log_var(log_snr, 'fixed_large')[t - 1], output)
  if variance == 'free':
    return large + FREE_RANGE * jnp.tanh(output / FREE_RANGE)
  small = over_event(fixed_log_var(log_snr, 'fixed_small')[t - 1], output)
  share = 0.5 * (output + 1)
  return share * large + (1 - share) * small


def optimal_log_var(log_snr, x_0_error):
  """The log-variances [T] that maximise the bound, given the errors that a model makes.

  sigma_t^2 = E|x_{t-1} - mean|^2 / D = variance of q(x_{t-1} | x_t, x_0)
    + (weight of x_0 in its mean)^2 E|x_0 - prediction|^2 / D

  which for the optimal prediction is Analytic-DPM (Bao et al. 2022, theorem 1,
  `analytic.optimal_reverse_variance`) and for any other still the best variance beside its mean.

  log_snr: table [T+1]. x_0_error: [T], E|x_0 - prediction|^2 / D at t = 1..T.
  """
  return jnp.log(analytic.optimal_reverse_variance(log_snr[:-1], log_snr[1:], x_0_error))


def mean_error(T: int, t, x_0_error) -> np.ndarray:
  """The mean error at t = 1..T, [T] float32, from errors at some times each.

  t, x_0_error: [N, K], the squared error per dimension of the predicted x_0 at time t. A level
  without an entry takes the value interpolated between its neighbours'.
  """
  t = np.asarray(t).reshape(-1)
  count = np.bincount(t, minlength=T + 1)[1:]
  total = np.bincount(t, np.asarray(x_0_error, np.float64).reshape(-1), minlength=T + 1)[1:]
  seen = np.flatnonzero(count)
  return np.interp(np.arange(T), seen, total[seen] / count[seen]).astype(np.float32)
