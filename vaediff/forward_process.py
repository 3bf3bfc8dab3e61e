"""The forward process of diffusion: data to noise, and its exact reversal given the data.

    x_t = signal_scale(log_snr_t) * x_0 + noise_scale(log_snr_t) * eps,  eps ~ N(0, I)

variance-preserving: signal_scale^2 + noise_scale^2 = 1. Every function takes log signal-to-noise
ratios, scalars or [B], and broadcasts them over the event; +inf stands for clean data (t = 0).
Lecture section 4; Ho et al. 2020; in log-SNR form Kingma et al. 2021, appendix A.
"""

import jax
import jax.numpy as jnp

from vaediff.gaussian import Normal


def signal_scale(log_snr):
  """sqrt(alpha_bar) = sqrt(sigmoid(log_snr))."""
  return jnp.exp(0.5 * jax.nn.log_sigmoid(log_snr))


def noise_scale(log_snr):
  """sqrt(1 - alpha_bar) = sqrt(sigmoid(-log_snr))."""
  return jnp.exp(0.5 * jax.nn.log_sigmoid(-log_snr))


def scales(log_snr_t, x):
  """(signal_scale, noise_scale) at log_snr_t, a scalar or [B], to broadcast against x [B, ...]."""
  log_snr_t = over_event(log_snr_t, x)
  return signal_scale(log_snr_t), noise_scale(log_snr_t)


def marginal(x_0, log_snr_t) -> Normal:
  """q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I) (lecture section 4).

  x_0: [B, ...]. log_snr_t: scalar or [B].
  """
  log_snr_t = over_event(log_snr_t, x_0)
  return Normal(
    signal_scale(log_snr_t) * x_0,
    jnp.broadcast_to(jax.nn.log_sigmoid(-log_snr_t), jnp.shape(x_0)),
  )


def transition(x_s, log_snr_s, log_snr_t) -> Normal:
  """q(x_t | x_s) for s < t (lecture section 4, X_t given X_s; Kingma et al. 2021, eq. 22-23).

  x_s: [B, ...]. log_snr_s, log_snr_t: scalars or [B]; log_snr_s may be +inf (then x_s is x_0).
  """
  log_snr_s, log_snr_t = over_event(log_snr_s, x_s), over_event(log_snr_t, x_s)
  log_ratio = jax.nn.log_sigmoid(log_snr_t) - jax.nn.log_sigmoid(log_snr_s)
  return Normal(
    jnp.exp(0.5 * log_ratio) * x_s,
    jnp.broadcast_to(transition_log_var(log_snr_s, log_snr_t), jnp.shape(x_s)),
  )


def transition_log_var(log_snr_s, log_snr_t):
  """The log-variance of q(x_t | x_s): Ho et al.'s beta_t, which they call the larger choice."""
  return jax.nn.log_sigmoid(-log_snr_t) + _log1m_exp(log_snr_t - log_snr_s)


def posterior(x_0, x_t, log_snr_s, log_snr_t) -> Normal:
  """q(x_s | x_t, x_0) for s < t (lecture section 4, key idea 2; Ho et al. 2020, eq. 6-7).

  x_0, x_t: [B, ...]. log_snr_s, log_snr_t: scalars or [B]; log_snr_s may be +inf, where the
  posterior is the point x_0 (log_var = -inf).
  """
  log_snr_s, log_snr_t = over_event(log_snr_s, x_t), over_event(log_snr_t, x_t)
  # SNR(t)/SNR(s) is the share of x_t in the mean, up to the ratio of the signal scales.
  snr_ratio = jnp.exp(log_snr_t - log_snr_s)
  log_sigmoid_s, log_sigmoid_t = jax.nn.log_sigmoid(log_snr_s), jax.nn.log_sigmoid(log_snr_t)
  mean = (
    snr_ratio * jnp.exp(0.5 * (log_sigmoid_s - log_sigmoid_t)) * x_t
    - jnp.expm1(log_snr_t - log_snr_s) * jnp.exp(0.5 * log_sigmoid_s) * x_0
  )
  return Normal(mean, jnp.broadcast_to(posterior_log_var(log_snr_s, log_snr_t), mean.shape))


def posterior_log_var(log_snr_s, log_snr_t):
  """The log-variance of q(x_s | x_t, x_0): Ho et al.'s beta-tilde_t, the smaller choice."""
  return jax.nn.log_sigmoid(-log_snr_s) + _log1m_exp(log_snr_t - log_snr_s)


def x_0_from_eps(x_t, eps, log_snr_t):
  """x_0 = (x_t - noise_scale eps) / signal_scale. x_t, eps: [B, ...]."""
  log_snr_t = over_event(log_snr_t, x_t)
  return (x_t - noise_scale(log_snr_t) * eps) / signal_scale(log_snr_t)


def eps_from_x_0(x_t, x_0, log_snr_t):
  """eps = (x_t - signal_scale x_0) / noise_scale, for finite log_snr_t. x_t, x_0: [B, ...]."""
  log_snr_t = over_event(log_snr_t, x_t)
  return (x_t - signal_scale(log_snr_t) * x_0) / noise_scale(log_snr_t)


def v_from_x_0(x_t, x_0, log_snr_t):
  """v = signal_scale eps - noise_scale x_0, given x_t and x_0 (Salimans & Ho 2022, section 4)."""
  log_snr_t = over_event(log_snr_t, x_t)
  return (signal_scale(log_snr_t) * x_t - x_0) / noise_scale(log_snr_t)


def x_0_from_v(x_t, v, log_snr_t):
  """x_0 = signal_scale x_t - noise_scale v (Salimans & Ho 2022, section 4)."""
  log_snr_t = over_event(log_snr_t, x_t)
  return signal_scale(log_snr_t) * x_t - noise_scale(log_snr_t) * v


def over_event(value, x):
  """value, a scalar or [B], in the dtype of x and ready to broadcast against x [B, ...]."""
  value = jnp.asarray(value, jnp.result_type(x, float))
  return value.reshape(value.shape + (1,) * (jnp.ndim(x) - 1)) if value.ndim else value


def _log1m_exp(x):
  """log(1 - e^x) for x < 0, accurate at both ends."""
  return jnp.log(-jnp.expm1(x))
