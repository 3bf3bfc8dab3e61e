"""Denoising diffusion (Sohl-Dickstein et al. 2015; Ho et al. 2020; lecture section 4).

    p(x_T) = N(0, I),   p(x_{t-1} | x_t) = N(mean(x_t, t), variance_t I)

The network sees x_t and log_snr[t]. It predicts the noise eps, the data x_0 or v; through the pivot
x_0 each gives the mean of the exact posterior q(x_{t-1} | x_t, x_0) with the predicted x_0 in it.
"""

from collections.abc import Mapping

import jax.numpy as jnp

from vaediff import bounds, forward_process, gaussian, likelihoods, random, sampling
from vaediff.methods.base import Batch, Method, Variables
from vaediff.networks import Network

PREDICTIONS = ('eps', 'x_0', 'v')
VARIANCES = ('fixed_small', 'fixed_large')
LOSSES = ('simple', 'bound')
DECODERS = ('discretized_normal', 'nearest_level')
SAMPLERS = ('ancestral', *sampling.SOLVERS)


def diffusion(
  network: Network,
  log_snr,
  event_shape: tuple[int, ...],
  num_levels: int,
  prediction: str = 'eps',
  variance: str = 'fixed_large',
  loss: str = 'simple',
  decoder: str = 'discretized_normal',
  clip_x_0: bool = True,
  num_times: int | None = None,
  sampler: str = 'ancestral',
  num_sampling_steps: int | None = None,
  spacing: str = 'time',
  sampler_options: Mapping | None = None,
) -> Method:
  """A diffusion model with fixed variance.

  network: (x_t [B, ...], log_snr_t [B], label [B]) -> [B, ...].
  log_snr: the schedule's table [T+1].
  event_shape: of one example. num_levels: of the data, 0 .. num_levels - 1.
  prediction: what the network outputs, 'eps', 'x_0' or 'v'.
  variance: of p(x_{t-1} | x_t), the two choices of Ho et al. 2020, section 3.2: 'fixed_small', the
    variance of q(x_{t-1} | x_t, x_0) (at t = 1, where that is 0, its value at t = 2), or
    'fixed_large', the variance of q(x_t | x_{t-1}).
  loss: at one t per example, uniform on 1..T. 'simple': the mean over the event of the squared
    error of what the network predicts, no unit (Ho et al. 2020, eq. 14, divided by the dimension).
    'bound': T times the bound's term at t plus the prior's KL: an unbiased estimate of the negative
    bound, in nats.
  decoder: p(x | x_1), 'discretized_normal' (Ho et al. 2020, eq. 13) with the mean and variance of
    the reverse step, or 'nearest_level' (Kingma et al. 2021), by Bayes' rule from x_1 alone. On a
    schedule with small steps near t = 1 the variance 'fixed_small' of t = 2 is far below the error
    of the mean, and 'discretized_normal' pays for it: take 'fixed_large' or 'nearest_level' there.
  clip_x_0: whether the predicted x_0 is clipped to [-1, 1] when sampling and in the evaluated
    bound (never in the loss). A projection onto a convex set that holds x_0, it cannot worsen a KL
    term.
  num_times: how many of the T - 1 terms t = 2..T `log_likelihood_bound` computes for each example;
    None: all (see `bounds.diffusion_bound`).
  sampler: 'ancestral' or one of `sampling.SOLVERS`, with its options (noise_scale, eta).
  num_sampling_steps, spacing: on how many levels of the schedule, and which (see
    `sampling.respace`); None: all.

  Raises ValueError for an unknown prediction, variance, loss, decoder or sampler, and for a
  number of steps or options that the sampler does not take.
  """
  for name, value, allowed in (
    ('prediction', prediction, PREDICTIONS),
    ('variance', variance, VARIANCES),
    ('loss', loss, LOSSES),
    ('decoder', decoder, DECODERS),
    ('sampler', sampler, SAMPLERS),
  ):
    if value not in allowed:
      raise ValueError(f'{name} is {value!r}; it is one of {", ".join(allowed)}')
  T = len(log_snr) - 1
  sampling_log_snr = sampling.respace(log_snr, num_sampling_steps or T, spacing)
  sampler_options = dict(sampler_options or {})
  log_snr, sampling_log_snr = jnp.float32(log_snr), jnp.float32(sampling_log_snr)

  def denoiser(params, label, clip):
    """(x_t, log_snr_t [B]) -> the predicted x_0."""

    def predict_x_0(x_t, log_snr_t):
      output = network.apply(params, x_t, log_snr_t, label)
      x_0 = _x_0_from(prediction, x_t, output, log_snr_t)
      return jnp.clip(x_0, -1, 1) if clip else x_0

    return predict_x_0

  def reverse_step(predict_x_0, log_snr):
    """(x_t, t [B]) -> p(x_{t-1} | x_t), on the levels of a table."""
    log_var = reverse_log_var(log_snr, variance)

    def step(x_t, t):
      x_0 = predict_x_0(x_t, log_snr[t])
      mean = forward_process.posterior(x_0, x_t, log_snr[t - 1], log_snr[t]).mean
      return gaussian.Normal(mean, _over_event(log_var[t - 1], mean))

    return step

  def decoder_log_prob(x):
    """(x_1, p(x_0 | x_1)) -> log p(x | x_1), [B]."""
    if decoder == 'nearest_level':
      scales = forward_process.signal_scale(log_snr[1]), forward_process.noise_scale(log_snr[1])
      return lambda x_1, reverse: likelihoods.nearest_level_log_prob(x, x_1, *scales, num_levels)
    return lambda x_1, reverse: likelihoods.discretized_normal_log_prob(
      x, reverse.mean, 0.5 * reverse.log_var, num_levels
    )

  def init(key, batch: Batch):
    x = likelihoods.center(batch.x, num_levels)
    return Variables(network.init(key, x, jnp.zeros(x.shape[0]), batch.label))

  def simple_loss(params, keys, batch: Batch, t):
    x_0 = likelihoods.center(batch.x, num_levels)
    eps = random.normal(keys, x_0.shape)
    signal, noise = _scales(log_snr[t], x_0)
    output = network.apply(params, signal * x_0 + noise * eps, log_snr[t], batch.label)
    target = {'eps': eps, 'x_0': x_0, 'v': signal * eps - noise * x_0}[prediction]
    return {'loss': gaussian.sum_event(jnp.square(output - target)) / x_0[0].size}

  def bound_loss(params, keys, batch: Batch, t):
    x_0 = likelihoods.center(batch.x, num_levels)
    step = reverse_step(denoiser(params, batch.label, clip=False), log_snr)
    term = bounds.diffusion_term(keys, x_0, t, log_snr, step, decoder_log_prob(batch.x))
    return {'loss': T * term + bounds.diffusion_prior_kl(x_0, log_snr)}

  def loss_terms(variables: Variables, keys, batch: Batch, step):
    del step
    t_keys, noise_keys = random.split(keys)
    t = random.integers(t_keys, 1, T + 1)
    terms = {'simple': simple_loss, 'bound': bound_loss}[loss]
    return terms(variables.params, noise_keys, batch, t)

  def log_likelihood_bound(variables: Variables, keys, batch: Batch):
    return bounds.diffusion_bound(
      keys,
      likelihoods.center(batch.x, num_levels),
      log_snr,
      reverse_step(denoiser(variables.params, batch.label, clip_x_0), log_snr),
      decoder_log_prob(batch.x),
      T - 1 if num_times is None else num_times,
    )

  def sample(variables: Variables, keys, label):
    predict_x_0 = denoiser(variables.params, label, clip_x_0)
    if sampler == 'ancestral':
      step = reverse_step(predict_x_0, sampling_log_snr)
      num_steps = len(sampling_log_snr) - 1
      x_0 = sampling.ancestral(keys, event_shape, step, num_steps, **sampler_options)
    else:
      solver = sampling.SOLVERS[sampler]
      x_0 = solver(keys, event_shape, predict_x_0, sampling_log_snr, **sampler_options)
    return likelihoods.quantize(x_0, num_levels)

  return Method(
    init=init, loss=loss_terms, sample=sample, log_likelihood_bound=log_likelihood_bound
  )


def reverse_log_var(log_snr, variance: str):
  """The log-variances of p(x_{t-1} | x_t) for t = 1..T, as [T] (index t - 1).

  log_snr: table [T+1]. variance: one of VARIANCES. Ho et al. 2020, section 3.2.
  """
  s, t = log_snr[:-1], log_snr[1:]
  if variance == 'fixed_large':
    return forward_process.transition_log_var(s, t)
  small = forward_process.posterior_log_var(s, t)
  # q(x_0 | x_1, x_0) is a point: t = 1 takes the value of t = 2, as Ho et al. do; for T = 1, where
  # there is none, the larger choice.
  first = small[1] if len(small) > 1 else forward_process.transition_log_var(s, t)[0]
  return small.at[0].set(first)


def _x_0_from(prediction: str, x_t, output, log_snr_t):
  """The x_0 that a network's output stands for."""
  if prediction == 'eps':
    return forward_process.x_0_from_eps(x_t, output, log_snr_t)
  if prediction == 'v':
    return forward_process.x_0_from_v(x_t, output, log_snr_t)
  return output


def _scales(log_snr_t, x):
  log_snr_t = _over_event(log_snr_t, x)
  return forward_process.signal_scale(log_snr_t), forward_process.noise_scale(log_snr_t)


def _over_event(value, x):
  """value [B], ready to broadcast against x [B, ...]."""
  return value.reshape(value.shape + (1,) * (x.ndim - 1))
