"""Bounds on the log-likelihood, as pure functions of distributions; no network is known here.

The evidence lower bound of a latent-variable model (Kingma & Welling 2014, eq. 3; lecture section
3) and the variational bound of diffusion, term by term (Ho et al. 2020, eq. 5; lecture section 4,
"a loss at the level of distributions"), in discrete and in continuous time. All in nats, `[B]`,
unreduced.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vaediff import forward_process, gaussian, random


def elbo(log_likelihood, kl):
  """The evidence lower bound E_q[log p(x | z)] - KL(q(z | x) | p(z)) <= log p(x), term by term.

  log_likelihood, kl: [B] nats, the first by one or more draws of z. Returns {'elbo',
  'reconstruction' (= -log_likelihood), 'kl'}: each [B] nats, elbo = -(reconstruction + kl).
  """
  return {'elbo': log_likelihood - kl, 'reconstruction': -log_likelihood, 'kl': kl}


def importance_weighted(log_weights):
  """The importance-weighted bound log(1/k sum_i w_i), in nats, [B] (Burda et al. 2016).

  log_weights: [k, B], log p(x | z_i) + log p(z_i) - log q(z_i | x), z_i ~ q(z | x); their eq. 8.
  For k = 1 a draw of the ELBO; it grows with k towards log p(x).
  """
  return jax.nn.logsumexp(log_weights, axis=0) - jnp.log(log_weights.shape[0])


def streamed_importance_weighted(keys, log_weights: Callable, num_draws: int, chunk: int):
  """`importance_weighted` of num_draws draws, of which `chunk` are computed at once. [B] nats.

  Only the log-weights themselves are kept, one number for each draw and example, so that memory is
  that of `chunk` draws. Draw i has the keys fold_in(keys, i): it is the same for every `chunk`.

  keys: [B]. log_weights(keys [B]) -> [B]: one draw of log p(x | z) + log p(z) - log q(z | x) for
  each example; several draws are its `jax.vmap`. num_draws: need not be a multiple of chunk.
  Raises ValueError for num_draws or chunk below 1.
  """
  for name, value in (('num_draws', num_draws), ('chunk', chunk)):
    if value < 1:
      raise ValueError(f'{name} is {value}; it is at least 1')

  def draw(i):
    return log_weights(random.fold_in(keys, i))

  return importance_weighted(jax.lax.map(draw, jnp.arange(num_draws), batch_size=chunk))


def free_bits(kl_groups, nats: float):
  """sum_g max(kl_g, nats): below `nats` a group's KL costs nothing more to use. [B] nats.

  kl_groups: [B, G]. Kingma et al. 2016, eq. 15, for each example by itself where they take the mean
  over a minibatch: losses here are unreduced.
  """
  return jnp.sum(jnp.maximum(kl_groups, nats), axis=-1)


def diffusion_prior_kl(x_0, log_snr):
  """KL(q(x_T | x_0) | N(0, I)), what the forward process leaves of the data. [B] nats.

  x_0: [B, ...]. log_snr: the schedule's table [T+1].
  """
  return gaussian.kl_to_standard_normal(forward_process.marginal(x_0, log_snr[-1]))


def diffusion_term(keys, x_0, t, log_snr, reverse_step: Callable, decoder_log_prob: Callable):
  """One draw of the bound's term at time t, for each example at its own t. [B] nats.

  t > 1: KL(q(x_{t-1} | x_t, x_0) | p(x_{t-1} | x_t)); t = 1: -log p(x | x_1); x_t ~ q(x_t | x_0).

  keys: [B]. x_0: [B, ...]. t: [B] integers in 1..T. log_snr: table [T+1].
  reverse_step(x_t, t) -> Normal: the model's p(x_{t-1} | x_t).
  decoder_log_prob(x_1, reverse) -> [B]: log p(x | x_1), given x_1 and reverse_step(x_1, 1).
  """
  x_t = gaussian.sample(keys, forward_process.marginal(x_0, jnp.asarray(log_snr, x_0.dtype)[t]))
  return diffusion_term_at(x_0, x_t, t, log_snr, reverse_step(x_t, t), decoder_log_prob)


def diffusion_term_at(x_0, x_t, t, log_snr, reverse, decoder_log_prob: Callable):
  """`diffusion_term` for a given x_t [B, ...] and the model's reverse = p(x_{t-1} | x_t). [B]."""
  kl = gaussian.kl(diffusion_posterior(x_0, x_t, t, log_snr), reverse)
  # Most batches have no t = 1 in them, and the decoder's density is not cheap.
  reconstruction = jax.lax.cond(
    jnp.any(t == 1), lambda: -decoder_log_prob(x_t, reverse), lambda: jnp.zeros_like(kl)
  )
  return jnp.where(t > 1, kl, reconstruction)


def diffusion_posterior(x_0, x_t, t, log_snr):
  """q(x_{t-1} | x_t, x_0) for t > 1 on the levels of a table; for t = 1 something finite.

  There the posterior is the point x_0, and nothing made of it is meant to be used: a finite log-SNR
  keeps the branch not taken finite, and with it the gradient of the one that is.
  """
  log_snr = jnp.asarray(log_snr, x_0.dtype)
  log_snr_s = jnp.where(t > 1, log_snr[t - 1], log_snr[t] + 1)
  return forward_process.posterior(x_0, x_t, log_snr_s, log_snr[t])


def diffusion_bound(
  keys, x_0, log_snr, reverse_step: Callable, decoder_log_prob: Callable, num_times: int
):
  """The variational bound of diffusion on log p(x), term by term (Ho et al. 2020, eq. 5).

  The sum over t = 2..T is exact for num_times = T - 1; with fewer, each example's times are drawn
  by systematic sampling: one from each of num_times equal parts of 2..T, at one random offset, in
  integers. Every t is equally likely, so the estimate stays unbiased. The decoder's term, t = 1,
  and the prior's are always computed. One network call for each time, in one `lax.scan`, and one
  for the decoder.

  keys: [B]. x_0: [B, ...]; reverse_step and decoder_log_prob as in `diffusion_term`, but that t is
  a scalar at t = 1, and for num_times = T - 1 always: all examples are at the same level. Returns
  {'elbo', 'prior_kl', 'diffusion_kl' (the sum over t = 2..T), 'reconstruction' (t = 1)}: each [B].
  Raises ValueError for num_times outside 1..T-1 (0 for T = 1).
  """
  T = len(log_snr) - 1
  if not min(1, T - 1) <= num_times <= T - 1:
    raise ValueError(f'num_times is {num_times}; with T = {T} it lies in {min(1, T - 1)}..{T - 1}')
  offset_keys, decoder_keys, term_keys = random.split(keys, 3)
  offset = random.integers(offset_keys, 0, max(T - 1, 1))

  log_snr = jnp.asarray(log_snr, x_0.dtype)

  def step(keys, t):
    x_t = gaussian.sample(keys, forward_process.marginal(x_0, log_snr[t]))
    return x_t, reverse_step(x_t, t)

  def add_part(total, part):
    t = 2 + (part if num_times == T - 1 else (part * (T - 1) + offset) // num_times)
    x_t, reverse = step(random.fold_in(term_keys, part), t)
    return total + gaussian.kl(diffusion_posterior(x_0, x_t, t, log_snr), reverse), None

  zeros = jnp.zeros(x_0.shape[0], x_0.dtype)
  total, _ = jax.lax.scan(add_part, zeros, jnp.arange(num_times))
  reconstruction = -decoder_log_prob(*step(decoder_keys, jnp.int32(1)))
  prior_kl = diffusion_prior_kl(x_0, log_snr)
  diffusion_kl = total * ((T - 1) / max(num_times, 1))
  return {
    'elbo': -(prior_kl + diffusion_kl + reconstruction),
    'prior_kl': prior_kl,
    'diffusion_kl': diffusion_kl,
    'reconstruction': reconstruction,
  }


def diffusion_continuous_term(keys, x_0, log_snr_t, predict_x_0: Callable):
  """1/2 SNR |x_0 - x_0_hat(x_t)|^2 for one x_t ~ q(x_t | x_0) of each example. [B] nats.

  The KL per unit of log-SNR that continuous time costs: `diffusion_continuous_bound` integrates it,
  and with log_snr_t uniform it is a loss, in nats when multiplied by the range of log_snr_t.

  keys: [B]. x_0: [B, ...]. log_snr_t: [B]. predict_x_0(x_t [B, ...], log_snr_t [B]) -> x_0_hat.
  """
  log_snr_t = jnp.asarray(log_snr_t, x_0.dtype)
  x_t = gaussian.sample(keys, forward_process.marginal(x_0, log_snr_t))
  error = gaussian.sum_event(jnp.square(x_0 - predict_x_0(x_t, log_snr_t)))
  return 0.5 * jnp.exp(log_snr_t) * error


def diffusion_continuous_bound(
  keys,
  x_0,
  log_snr_first,
  log_snr_last,
  predict_x_0: Callable,
  decoder_log_prob: Callable,
  num_times: int,
):
  """The variational bound of diffusion on log p(x) in continuous time, T -> infinity, term by term.

  Kingma et al. 2021, section 5. The KLs of infinitely many steps with the variance of
  q(x_s | x_t, x_0) become the integral

    1/2 int SNR |x_0 - x_0_hat(x_t)|^2 d log SNR  from log_snr_last to log_snr_first,

  which knows nothing else of the schedule. Each example's log-SNRs are drawn by systematic
  sampling: one from each of num_times equal parts, at one uniform offset, so that the estimate is
  unbiased. One network call for each, in one `lax.scan`.

  keys: [B]. x_0: [B, ...]. log_snr_first > log_snr_last: finite scalars, at the smallest and the
  largest noise. predict_x_0 as in `diffusion_continuous_term`.
  decoder_log_prob(x_first) -> [B]: log p(x | x_first), x_first ~ q(. | x_0) at log_snr_first.

  Returns {'elbo', 'prior_kl', 'diffusion_kl' (the integral), 'reconstruction'}: each [B]. Raises
  ValueError for num_times below 1.
  """
  if num_times < 1:
    raise ValueError(f'num_times is {num_times}; it is at least 1')
  offset_keys, decoder_keys, term_keys = random.split(keys, 3)
  offset = random.uniform(offset_keys, keys.shape, x_0.dtype)
  part_width = (log_snr_first - log_snr_last) / num_times

  def add_part(total, part):
    log_snr_t = log_snr_last + part_width * (part + offset)
    part_keys = random.fold_in(term_keys, part)
    return total + diffusion_continuous_term(part_keys, x_0, log_snr_t, predict_x_0), None

  total, _ = jax.lax.scan(add_part, jnp.zeros_like(offset), jnp.arange(num_times))
  x_first = gaussian.sample(decoder_keys, forward_process.marginal(x_0, log_snr_first))
  reconstruction = -decoder_log_prob(x_first)
  prior_kl = gaussian.kl_to_standard_normal(forward_process.marginal(x_0, log_snr_last))
  diffusion_kl = part_width * total
  return {
    'elbo': -(prior_kl + diffusion_kl + reconstruction),
    'prior_kl': prior_kl,
    'diffusion_kl': diffusion_kl,
    'reconstruction': reconstruction,
  }
