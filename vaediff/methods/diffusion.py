"""Denoising diffusion (Sohl-Dickstein et al. 2015; Ho et al. 2020; lecture section 4).

    p(x_T) = N(0, I),   p(x_{t-1} | x_t) = N(mean(x_t, t), diag(variance(x_t, t)))

The network sees x_t and log_snr[t]. It predicts the noise eps, the data x_0, v or which level x_0
has; through the pivot x_0 each gives the mean of the exact posterior q(x_{t-1} | x_t, x_0) with the
predicted x_0 in it.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from vaediff import (
  bounds,
  forward_process,
  gaussian,
  likelihoods,
  probability_flow,
  random,
  reverse_process,
  sampling,
  schedules,
  time_sampling,
)
from vaediff.forward_process import over_event
from vaediff.methods.base import Batch, Method, Variables
from vaediff.networks import Network

LOSSES = ('simple', 'bound', 'hybrid', 'continuous')
DECODERS = ('discretized_normal', 'nearest_level', 'levels')
SAMPLERS = ('ancestral', *sampling.SOLVERS)
BOUNDS = ('bound', 'continuous', 'probability_flow')


def num_outputs(prediction: str, variance: str, num_logits: int) -> int:
  """How many output channels the network needs for each channel of the data.

  num_logits: for the prediction 'levels' the number of levels, or of what they are made of.
  """
  num_predicted = num_logits if prediction == 'levels' else 1
  return num_predicted + (variance in reverse_process.LEARNED_VARIANCES)


def diffusion(
  network: Network,
  log_snr: np.ndarray | schedules.Learned,
  event_shape: tuple[int, ...],
  num_levels: int,
  prediction: str = 'eps',
  variance: str = 'fixed_large',
  loss: str = 'simple',
  hybrid_weight: float = 1e-3,
  times: str = 'uniform',
  decoder: str = 'discretized_normal',
  clip_x_0: bool = True,
  label_dropout: float = 0.0,
  bound: str = 'bound',
  num_times: int | None = None,
  divergence: str = 'hutchinson',
  sampler: str = 'ancestral',
  num_sampling_steps: int | None = None,
  spacing: str = 'time',
  guidance: float = 0.0,
  sampler_options: Mapping | None = None,
) -> Method:
  """A diffusion model.

  network: (x_t [B, ..., C], log_snr_t, a scalar or [B], label [B]) -> [B, ..., C num_outputs(...)],
    first what it predicts, then what it says of the variance.
  log_snr: the schedule's table [T+1], or one that is learned with the network (Kingma et al. 2021).
  event_shape: of one example. num_levels: of the data, 0 .. num_levels - 1.
  prediction: what the network outputs, 'eps', 'x_0', 'v' or 'levels' (`reverse_process.x_0_from`).
  variance: of p(x_{t-1} | x_t). 'fixed_small' or 'fixed_large' (`reverse_process.fixed_log_var`);
    learned for each pixel, by the last C of the network's channels: 'interpolated' between the two,
    or 'free' (`reverse_process.learned_log_var`); 'optimal', fitted after training to the model's
    errors on training examples (`reverse_process.optimal_log_var`), and 'fixed_small' as long as it
    is not.
  loss: at one time per example, drawn by `times`. 'simple': the mean over the event of the squared
    error of what the network predicts, no unit (Ho et al. 2020, eq. 14, divided by the dimension);
    with 'levels', of the x_0 they stand for. 'bound': T times the bound's term at t plus the
    prior's KL: an unbiased estimate of the negative bound, in nats. 'hybrid': simple +
    hybrid_weight bound, the bound in bits per dimension (T times its term at t) and its gradient
    stopped through the mean, so that it trains the learned variance alone (Nichol & Dhariwal 2021,
    section 3.1: their lambda = 0.001 is this weight, whatever T). 'continuous': the integral of the
    continuous-time bound (Kingma et al. 2021, eq. 17) over the schedule from t = 1 to T plus the
    prior's KL, in nats; without the decoder's term, which teaches nothing that the smallest noise
    does not.
  times: 'uniform', 'antithetic' or 'importance' (see `time_sampling`).
  decoder: p(x | x_1), 'discretized_normal' (Ho et al. 2020, eq. 13) with the mean and variance of
    the reverse step; 'nearest_level' (Kingma et al. 2021), by Bayes' rule from x_1 alone; or
    'levels', by Bayes' rule with the prior that the prediction 'levels' is. On a schedule with
    small steps near t = 1 the variance 'fixed_small' of t = 2 is far below the error of the mean,
    and 'discretized_normal' pays for it: take 'fixed_large' or another decoder there.
  clip_x_0: whether the predicted x_0 is clipped to [-1, 1] when sampling and in the evaluated
    bound (never in the loss). A projection onto a convex set that holds x_0, it cannot worsen a KL
    term.
  label_dropout: the probability with which training hides a label from the network, so that it also
    learns the unconditional model that guidance needs (Ho & Salimans 2022).
  bound: what `log_likelihood_bound` is. 'bound': the variational bound at T, of which num_times
    of the terms t = 2..T are computed for each example; None: all. 'continuous': the
    continuous-time bound between the ends of the schedule, with num_times log-SNRs (None: T - 1),
    where the variance has no part. 'probability_flow': uniform dequantisation and the
    probability-flow ODE in num_times steps (None: T - 1), with its divergence 'exact' or by
    'hutchinson'.
  sampler: 'ancestral' or one of `sampling.SOLVERS`, with its options (noise_scale, eta).
  num_sampling_steps, spacing: on how many levels of the schedule, and which (see
    `sampling.respace`); None: all.
  guidance: w of classifier-free guidance, prediction + w (prediction - unconditional prediction)
    (Ho & Salimans 2022, eq. 6). 0 is the conditional model.

  Raises ValueError for an unknown choice, for a number of steps or options that the sampler does
  not take, for 'hybrid' without a learned variance, for the decoder 'levels' without that
  prediction, and for a learned schedule without the loss 'bound' and the spacing 'time'.
  """
  for name, value, allowed in (
    ('prediction', prediction, reverse_process.PREDICTIONS),
    ('variance', variance, reverse_process.VARIANCES),
    ('loss', loss, LOSSES),
    ('decoder', decoder, DECODERS),
    ('bound', bound, BOUNDS),
    ('sampler', sampler, SAMPLERS),
  ):
    if value not in allowed:
      raise ValueError(f'{name} is {value!r}; it is one of {", ".join(allowed)}')
  is_variance_learned = variance in reverse_process.LEARNED_VARIANCES
  if loss == 'hybrid' and not is_variance_learned:
    raise ValueError(
      f"loss 'hybrid' trains a learned variance, and variance is {variance!r}; make it one of "
      f'{", ".join(reverse_process.LEARNED_VARIANCES)}, or the loss simple'
    )
  if decoder == 'levels' and prediction != 'levels':
    raise ValueError(
      f"decoder 'levels' is made of the prediction 'levels', and prediction is {prediction!r}; "
      'make it levels, or the decoder nearest_level'
    )
  is_schedule_learned = isinstance(log_snr, schedules.Learned)
  if is_schedule_learned and (loss != 'bound' or spacing != 'time'):
    raise ValueError(
      f"a learned schedule goes with the loss 'bound' and the spacing 'time', not {loss!r} and "
      f'{spacing!r}'
    )
  T = log_snr.T if is_schedule_learned else len(log_snr) - 1
  num_times = T - 1 if num_times is None else num_times
  initial_log_snr = log_snr.table(log_snr.init()) if is_schedule_learned else log_snr
  levels = sampling.respace(initial_log_snr, num_sampling_steps or T, spacing)
  num_steps = len(levels) - 1
  time_sampler = time_sampling.make(times, T)
  dim = int(np.prod(event_shape))

  def table(params):
    return log_snr.table(params['schedule']) if is_schedule_learned else jnp.float32(log_snr)

  def predict(params, x_t, log_snr_t, label):
    """What the network predicts, and what it says of the variance (None unless that is learned)."""
    output = network.apply(params['denoiser'], x_t, log_snr_t, label)
    if not is_variance_learned:
      return output, None
    return jnp.split(output, [output.shape[-1] - event_shape[-1]], axis=-1)

  def make_denoiser(params, label, clip=clip_x_0, guidance=0.0):
    """(x_t, log_snr_t) -> the predicted x_0, and what the network says of the variance.

    guidance: its weight w; where it is not 0, log_snr_t must be a scalar, one for the batch.
    """

    def denoise(x_t, log_snr_t):
      if guidance:
        twice = jnp.concatenate([x_t, x_t])
        labels = jnp.concatenate([label, jnp.full_like(label, -1)])
        predicted = predict(params, twice, log_snr_t, labels)
        output, log_var = jax.tree.map(lambda o: jnp.split(o, 2), predicted)
        (output, unconditional), log_var = output, log_var and log_var[0]
        output = output + guidance * (output - unconditional)
      else:
        output, log_var = predict(params, x_t, log_snr_t, label)
      x_0 = reverse_process.x_0_from(prediction, x_t, output, log_snr_t)
      return jnp.clip(x_0, -1, 1) if clip else x_0, log_var

    return denoise

  def reverse(log_snr, levels, fitted, x_0, log_var_output, x_t, t):
    """p(x_{t-1} | x_t) on the levels of a table, given the predicted x_0."""
    mean = forward_process.posterior(x_0, x_t, log_snr[t - 1], log_snr[t]).mean
    if is_variance_learned:
      log_var = reverse_process.learned_log_var(log_snr, t, log_var_output, variance)
      return gaussian.Normal(mean, log_var)
    if variance != 'optimal':
      log_var = reverse_process.fixed_log_var(log_snr, variance)
    elif fitted == ():
      log_var = reverse_process.fixed_log_var(log_snr, 'fixed_small')
    else:
      log_var = reverse_process.optimal_log_var(log_snr, fitted['x_0_error'][levels[1:] - 1])
    return gaussian.Normal(mean, over_event(log_var[t - 1], mean))

  def make_reverse_step(variables: Variables, denoise, levels):
    """(x_t, t) -> p(x_{t-1} | x_t), on some levels of the schedule, t counting these."""
    log_snr = table(variables.params)[levels]

    def step(x_t, t):
      return reverse(log_snr, levels, variables.fitted, *denoise(x_t, log_snr[t]), x_t, t)

    return step

  def decoder_log_prob(variables: Variables, batch: Batch, label):
    """(x_1, p(x_0 | x_1)) -> log p(x | x_1), [B]."""
    log_snr_1 = table(variables.params)[1]

    def discretized_normal(x_1, reverse):
      return likelihoods.discretized_normal_log_prob(
        batch.x, reverse.mean, 0.5 * reverse.log_var, num_levels
      )

    def nearest_level(x_1, reverse):
      scales = forward_process.scales(log_snr_1, x_1)
      return likelihoods.nearest_level_log_prob(batch.x, x_1, *scales, num_levels)

    def levels(x_1, reverse):
      output, _ = predict(variables.params, x_1, log_snr_1, label)
      log_prior = reverse_process.level_log_prior(x_1, output)
      scales = forward_process.scales(log_snr_1, x_1)
      return likelihoods.level_log_prob(batch.x, x_1, log_prior, *scales)

    return {
      'discretized_normal': discretized_normal,
      'nearest_level': nearest_level,
      'levels': levels,
    }[decoder]

  def init(key, batch: Batch):
    network_key, times_key = random.split(key)
    x = likelihoods.center(batch.x, num_levels)
    params = {'denoiser': network.init(network_key, x, jnp.zeros(x.shape[0]), batch.label)}
    if is_schedule_learned:
      params['schedule'] = log_snr.init()
    return Variables(params, time_sampler.init(times_key))

  def loss_terms(variables: Variables, keys, batch: Batch, step):
    del step
    time_keys, noise_keys, label_keys = random.split(keys, 3)
    u, weight = time_sampler.draw(variables.carry, time_keys, batch.index)
    is_hidden = random.uniform(label_keys, keys.shape) < label_dropout
    label = jnp.where(is_hidden, -1, batch.label)
    x_0 = likelihoods.center(batch.x, num_levels)
    eps = random.normal(noise_keys, x_0.shape)
    log_snr = table(variables.params)
    t = jnp.minimum(1 + jnp.floor(u * T).astype(jnp.int32), T)
    if loss == 'continuous':
      log_snr_t, rate = _interpolate(log_snr, u)
    else:
      log_snr_t = log_snr[t]
    signal, noise = forward_process.scales(log_snr_t, x_0)
    x_t = signal * x_0 + noise * eps
    output, log_var_output = predict(variables.params, x_t, log_snr_t, label)
    prior_kl = bounds.diffusion_prior_kl(x_0, log_snr)
    terms = {}
    predicted = reverse_process.x_0_from(prediction, x_t, output, log_snr_t)
    if loss in ('simple', 'hybrid'):
      error = {
        'eps': lambda: output - eps,
        'x_0': lambda: output - x_0,
        'v': lambda: output - (signal * eps - noise * x_0),
        'levels': lambda: predicted - x_0,
      }[prediction]()
      terms['simple'] = gaussian.sum_event(jnp.square(error)) / dim
    if loss == 'continuous':
      error = gaussian.sum_event(jnp.square(x_0 - predicted))
      terms['bound'] = 0.5 * rate * jnp.exp(log_snr_t) * error
    elif loss != 'simple':
      if loss == 'hybrid':
        predicted = jax.lax.stop_gradient(predicted)
      p = reverse(log_snr, np.arange(T + 1), variables.fitted, predicted, log_var_output, x_t, t)
      decode = decoder_log_prob(variables, batch, label)
      terms['bound'] = T * bounds.diffusion_term_at(x_0, x_t, t, log_snr, p, decode)
    at_time = terms['simple'] if loss == 'simple' else terms['bound']
    if loss == 'hybrid':
      at_time = terms['simple'] + hybrid_weight * terms['bound'] / (dim * np.log(2))
    total = weight * at_time
    if loss in ('bound', 'continuous'):
      total = total + prior_kl
    terms = {'loss': total} | (terms if loss == 'hybrid' else {})
    return terms | ({'time': u, 'at_time': at_time} if time_sampler.update else {})

  def variational_bound(variables: Variables, keys, batch: Batch):
    log_snr = table(variables.params)
    denoise = make_denoiser(variables.params, batch.label)
    return bounds.diffusion_bound(
      keys,
      likelihoods.center(batch.x, num_levels),
      log_snr,
      make_reverse_step(variables, denoise, np.arange(T + 1)),
      decoder_log_prob(variables, batch, batch.label),
      num_times,
    )

  def continuous_bound(variables: Variables, keys, batch: Batch):
    log_snr = table(variables.params)
    denoise = make_denoiser(variables.params, batch.label)
    reverse_step = make_reverse_step(variables, denoise, np.arange(T + 1))
    decode = decoder_log_prob(variables, batch, batch.label)
    return bounds.diffusion_continuous_bound(
      keys,
      likelihoods.center(batch.x, num_levels),
      log_snr[1],
      log_snr[-1],
      lambda x_t, log_snr_t: denoise(x_t, log_snr_t)[0],
      lambda x_1: decode(x_1, reverse_step(x_1, jnp.int32(1))),
      num_times,
    )

  def flow_bound(variables: Variables, keys, batch: Batch):
    log_snr = table(variables.params)
    # Clipping would put kinks into the ODE.
    denoise = make_denoiser(variables.params, batch.label, clip=False)
    log_likelihood = probability_flow.dequantized_log_likelihood(
      keys,
      batch.x,
      num_levels,
      lambda x_t, log_snr_t: denoise(x_t, log_snr_t)[0],
      log_snr[1],
      log_snr[-1],
      num_steps=num_times,
      divergence=divergence,
    )
    return {'elbo': log_likelihood}

  def time_terms(variables: Variables, keys, batch: Batch):
    log_snr = table(variables.params)
    x_0 = likelihoods.center(batch.x, num_levels)
    denoise = make_denoiser(variables.params, batch.label)
    offset_keys, term_keys = random.split(keys)
    offset = random.integers(offset_keys, 0, T)
    num = min(num_times + 1, T)
    decode = decoder_log_prob(variables, batch, batch.label)

    def at_part(_, part):
      t = 1 + (part if num == T else (part * T + offset) // num)
      x_t = gaussian.sample(
        random.fold_in(term_keys, part), forward_process.marginal(x_0, log_snr[t])
      )
      predicted, log_var = denoise(x_t, log_snr[t])
      p = reverse(log_snr, np.arange(T + 1), variables.fitted, predicted, log_var, x_t, t)
      q = bounds.diffusion_posterior(x_0, x_t, t, log_snr)
      # E|x_{t-1} - mean|^2 given x_t and x_0, which at t = 1 is a point.
      is_first = over_event(t, x_0) == 1
      center = jnp.where(is_first, x_0, q.mean)
      spread = jnp.where(is_first, 0.0, jnp.exp(q.log_var))
      error = (jnp.square(center - p.mean) + spread) * jnp.exp(-p.log_var)
      return None, {
        't': jnp.broadcast_to(t, keys.shape),
        'log_snr': jnp.broadcast_to(log_snr[t], keys.shape),
        'bound_term': bounds.diffusion_term_at(x_0, x_t, t, log_snr, p, decode),
        'x_0_error': gaussian.sum_event(jnp.square(x_0 - predicted)) / dim,
        'calibration': gaussian.sum_event(error) / dim,
      }

    _, terms = jax.lax.scan(at_part, None, jnp.arange(num))
    return {name: term.T for name, term in terms.items()}

  def fit(statistics):
    return {'x_0_error': reverse_process.mean_error(T, statistics['t'], statistics['x_0_error'])}

  def draw(variables: Variables, keys, label, trajectory: bool, x_t=None, t=num_steps):
    """The chain from x_t at level t of those of sampling; from noise, where there is no x_t."""
    denoise = make_denoiser(variables.params, label, guidance=guidance)
    options = dict(sampler_options or {}, trajectory=trajectory, x_T=x_t)
    if sampler == 'ancestral':
      step = make_reverse_step(variables, denoise, levels)
      return sampling.ancestral(keys, event_shape, step, t, **options)
    return sampling.SOLVERS[sampler](
      keys,
      event_shape,
      lambda x_t, log_snr_t: denoise(x_t, log_snr_t)[0],
      table(variables.params)[levels[: t + 1]],
      **options,
    )

  def sample(variables: Variables, keys, label):
    return likelihoods.quantize(draw(variables, keys, label, trajectory=False), num_levels)

  def trajectory(variables: Variables, keys, label):
    _, states = draw(variables, keys, label, trajectory=True)
    log_snr = table(variables.params)[levels][::-1]
    return {
      'x': jnp.moveaxis(states, 0, 1),
      'log_snr': jnp.broadcast_to(log_snr, (len(keys), len(levels))),
    }

  def descend(variables: Variables, keys, label, x_t, t: int):
    _, states = draw(variables, keys, label, trajectory=True, x_t=x_t, t=t)
    return jnp.moveaxis(states, 0, 1)

  return Method(
    init=init,
    loss=loss_terms,
    units=(('loss', '1'),) if loss in ('simple', 'hybrid') else (),
    update_carry=time_sampler.update
    and (lambda carry, terms: time_sampler.update(carry, terms['time'], terms['at_time'])),
    statistics=time_terms if variance == 'optimal' else None,
    fit=fit if variance == 'optimal' else None,
    sample=sample,
    trajectory=trajectory,
    descend=descend,
    log_likelihood_bound={
      'bound': variational_bound,
      'continuous': continuous_bound,
      'probability_flow': flow_bound,
    }[bound],
    time_terms=time_terms,
  )


def _interpolate(log_snr, u):
  """The log-SNR [B] at u [B] of the way from t = 1 to T, linear between the levels of a table, and
  the rate -d log_snr / du there."""
  T = log_snr.shape[0] - 1
  place = u * (T - 1)
  t = jnp.minimum(1 + jnp.floor(place).astype(jnp.int32), T - 1)
  fall = log_snr[t] - log_snr[t + 1]
  return log_snr[t] - (place - (t - 1)) * fall, (T - 1) * fall
