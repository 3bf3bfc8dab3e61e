"""The bounds against exact answers; those of diffusion on Gaussian data, with the optimal model.

For x_0 ~ N(m, s^2) in every dimension, q(x_t) and q(x_{t-1} | x_t) are Gaussian in closed form.
With it in the bound, nothing is lost but the prior's mismatch: the expected bound exceeds the
expected -log p(x_0) by KL(q(x_T) | N(0, I)) exactly, at every T.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaediff import analytic, bounds, forward_process, gaussian, random, schedules
from vaediff.gaussian import Normal

MEAN, STD, DIM, N = 0.4, 0.7, 3, 4000


def exact_reverse_step(log_snr):
  """q(x_{t-1} | x_t) of Gaussian data, by conditioning the joint Gaussian of (x_{t-1}, x_t)."""
  a = np.float64(forward_process.signal_scale(log_snr))
  var = np.float64(forward_process.noise_scale(log_snr)) ** 2

  def step(x_t, t):
    a_s, a_t = jnp.asarray(a)[t - 1, None], jnp.asarray(a)[t, None]
    var_s = jnp.asarray(STD**2 * a**2 + var)[t - 1, None]
    var_t = jnp.asarray(STD**2 * a**2 + var)[t, None]
    gain = a_t / a_s * var_s / var_t  # Cov(x_{t-1}, x_t) / Var(x_t)
    mean = a_s * MEAN + gain * (x_t - a_t * MEAN)
    return Normal(mean, jnp.broadcast_to(jnp.log(var_s - gain * a_t / a_s * var_s), mean.shape))

  return step


def data(n=N):
  rng = np.random.default_rng(0)
  return jnp.asarray(MEAN + STD * rng.normal(size=(n, DIM)), jnp.float64)


def continuous_decoder(x_0):
  return lambda x_1, reverse: gaussian.log_prob(reverse, x_0)


@pytest.fixture(autouse=True)
def _float64():
  jax.config.update('jax_enable_x64', True)
  yield
  jax.config.update('jax_enable_x64', False)


def exact_bound(log_snr, num_times=None, n=N, seed=0):
  T = len(log_snr) - 1
  x_0 = data(n)
  keys = jax.random.split(jax.random.key(seed), n)
  return bounds.diffusion_bound(
    keys,
    x_0,
    jnp.asarray(log_snr),
    exact_reverse_step(log_snr),
    continuous_decoder(x_0),
    T - 1 if num_times is None else num_times,
  )


@pytest.mark.parametrize('T', [1, 2, 10, 100])
def test_with_the_exact_reverse_step_the_bound_is_the_likelihood(T):
  """The gap E[-elbo] - E[-log p] is KL(q(x_T) | N(0, I)), here computed in closed form.

  Monte Carlo over 4,000 draws of (x_0, x_t): within 5 standard errors, false alarm rate 6e-7 each.
  """
  log_snr = schedules.cosine(T)
  terms = exact_bound(log_snr)
  nll = -gaussian.log_prob(
    Normal(jnp.full((N, DIM), MEAN), jnp.full((N, DIM), 2 * np.log(STD))), data()
  )
  difference = np.asarray(-terms['elbo'] - nll)
  snr = np.exp(log_snr[-1])
  a2 = snr / (1 + snr)
  q_T = Normal(
    jnp.full((1, DIM), np.sqrt(a2) * MEAN), jnp.full((1, DIM), np.log(a2 * STD**2 + 1 - a2))
  )
  gap = float(gaussian.kl_to_standard_normal(q_T)[0])
  assert abs(difference.mean() - gap) < 5 * difference.std() / np.sqrt(N)
  assert difference.std() < 3  # else the check above could not fail


def test_terms_are_non_negative_and_sum_to_the_bound():
  terms = exact_bound(schedules.linear(50, 0.002, 0.4))
  assert np.all(terms['diffusion_kl'] >= 0)
  assert np.all(terms['prior_kl'] >= 0)
  total = terms['prior_kl'] + terms['diffusion_kl'] + terms['reconstruction']
  np.testing.assert_allclose(terms['elbo'], -total)


def test_fewer_times_leave_the_bound_unbiased():
  """7 of 99 times against all: means within 5 standard errors of their difference (6e-7)."""
  log_snr = schedules.cosine(100)
  whole, part = exact_bound(log_snr), exact_bound(log_snr, num_times=7, seed=1)
  difference = np.asarray(part['diffusion_kl'] - whole['diffusion_kl'])
  assert abs(difference.mean()) < 5 * difference.std() / np.sqrt(N)
  # else the check above could not fail: it resolves 8% of the value
  assert difference.std() < whole['diffusion_kl'].mean()


def test_all_times_are_each_time_once():
  """With num_times = T - 1 the sum is exact: a term that is t itself sums to 2 + ... + T."""
  log_snr = jnp.asarray(schedules.cosine(20))
  x_0 = data(2)
  keys = jax.random.split(jax.random.key(0), 2)

  def reverse_step(x_t, t):
    # A step whose KL to the posterior is t: the posterior's own variance, its mean off by
    # sqrt(2 t var) in one dimension.
    posterior = forward_process.posterior(
      x_0, x_t, jnp.where(t > 1, log_snr[t - 1], log_snr[t] + 1), log_snr[t]
    )
    shift = jnp.sqrt(2 * t * jnp.exp(posterior.log_var[:, 0]))
    return Normal(posterior.mean.at[:, 0].add(shift), posterior.log_var)

  terms = bounds.diffusion_bound(
    keys, x_0, log_snr, reverse_step, lambda x_1, reverse: jnp.full(2, -1.0), 19
  )
  np.testing.assert_allclose(terms['diffusion_kl'], sum(range(2, 21)), rtol=1e-6)
  np.testing.assert_allclose(terms['reconstruction'], 1.0)


def test_num_times_outside_its_range_is_refused():
  with pytest.raises(ValueError, match=r'num_times is 10; with T = 10 it lies in 1..9'):
    exact_bound(schedules.cosine(10), num_times=10, n=2)


def test_elbo_is_the_sum_of_its_terms():
  terms = bounds.elbo(jnp.array([-3.0, -2.0]), jnp.array([1.0, 0.5]))
  np.testing.assert_array_equal(terms['elbo'], [-4.0, -2.5])
  np.testing.assert_array_equal(terms['elbo'], -(terms['reconstruction'] + terms['kl']))


FIRST, LAST = 6.0, -5.0
DATA = analytic.GaussianData(np.full(DIM, MEAN), np.full(DIM, STD**2))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def continuous_bound(num_times, n=N, seed=0):
  """With the optimal denoiser and the optimal decoder q(x_0 | x_first)."""
  x_0 = data(n)

  def decoder_log_prob(x_first):
    return gaussian.log_prob(analytic.gaussian_reverse_step(DATA, x_first, jnp.inf, FIRST), x_0)

  return bounds.diffusion_continuous_bound(
    jax.random.split(jax.random.key(seed), n),
    x_0,
    FIRST,
    LAST,
    lambda x_t, log_snr_t: analytic.gaussian_denoiser(DATA, x_t, log_snr_t),
    decoder_log_prob,
    num_times,
  )


@pytest.mark.parametrize(('num_times', 'spread'), [(1, 13), (20, 4)])
def test_in_continuous_time_the_bound_of_the_optimal_model_is_the_likelihood(num_times, spread):
  """E[-elbo] - E[-log p] = KL(q(x_last) | N(0, I)), whatever num_times: the estimate is unbiased.

  Over 4,000 draws of (x_0, log-SNRs, x_t), within 5 standard errors: false-alarm rate 6e-7 each.
  """
  terms = continuous_bound(num_times)
  nll = -gaussian.log_prob(analytic.gaussian_marginal(DATA, jnp.inf), data())
  difference = np.asarray(-terms['elbo'] - nll)
  gap = float(gaussian.kl_to_standard_normal(analytic.gaussian_marginal(DATA, LAST))[0])
  assert abs(difference.mean() - gap) < 5 * difference.std() / np.sqrt(N)
  assert difference.std() < spread  # else the check above could not fail
  np.testing.assert_allclose(
    terms['elbo'], -(terms['prior_kl'] + terms['diffusion_kl'] + terms['reconstruction'])
  )


def test_the_integral_is_the_information_between_its_ends():
  """E[1/2 int SNR |x_0 - E[x_0 | x_t]|^2] = I(x_0; x_first) - I(x_0; x_last), in closed form.

  D/2 log((1 + SNR_first s^2) / (1 + SNR_last s^2)), the derivative of mutual information being half
  the least squared error (Guo et al. 2005). Within 5 standard errors: false-alarm rate 6e-7.
  """
  diffusion_kl = np.asarray(continuous_bound(num_times=20)['diffusion_kl'])
  exact = DIM / 2 * np.log((1 + np.exp(FIRST) * STD**2) / (1 + np.exp(LAST) * STD**2))
  assert abs(diffusion_kl.mean() - exact) < 5 * diffusion_kl.std() / np.sqrt(N)
  assert diffusion_kl.std() < 0.3 * exact  # a resolution of 2%


def test_many_steps_cost_what_continuous_time_does():
  """The same integral is the limit of sum_t KL for models with the variance of the posterior."""
  exact = DIM / 2 * np.log((1 + np.exp(FIRST) * STD**2) / (1 + np.exp(LAST) * STD**2))
  for T, tolerance in ((100, 0.1), (1000, 0.01)):
    log_snr = np.concatenate([[np.inf], np.linspace(FIRST, LAST, T)])
    log_var = np.append(0.0, forward_process.posterior_log_var(log_snr[1:-1], log_snr[2:]))
    discrete = analytic.gaussian_expected_bound(DATA, log_snr, log_var)['diffusion_kl']
    assert 0 < discrete - exact < tolerance * exact


def squared_error_is(function, x_0):
  """A denoiser for which 1/2 SNR |x_0 - x_0_hat|^2 is a function of the log-SNR alone."""

  def predict_x_0(x_t, log_snr_t):
    return x_0.at[:, 0].add(jnp.sqrt(2 * function(log_snr_t) * jnp.exp(-log_snr_t)))

  return predict_x_0


def test_each_part_of_the_log_snrs_is_drawn_once():
  """A constant is integrated exactly. Of the log-SNR itself, the estimate of an example is off by
  (u - 1/2) width^2 / num_times for its offset u: at most half of that, and uniformly distributed.
  """
  n, num_times, width = 200, 7, FIRST - LAST

  def integral(function):
    x_0 = data(n)
    predict_x_0 = squared_error_is(function, x_0)
    keys = jax.random.split(jax.random.key(0), n)
    terms = bounds.diffusion_continuous_bound(
      keys, x_0, FIRST, LAST, predict_x_0, lambda x_first: jnp.full(n, -1.0), num_times
    )
    np.testing.assert_allclose(terms['reconstruction'], 1.0)
    return np.asarray(terms['diffusion_kl'])

  np.testing.assert_allclose(integral(lambda log_snr_t: 0 * log_snr_t + 3), 3 * width)
  exact = (FIRST**2 - LAST**2) / 2 - LAST * width
  error = (integral(lambda log_snr_t: log_snr_t - LAST) - exact) / (width**2 / num_times)
  assert np.all(np.abs(error) < 0.5 + 1e-6)
  # Of 200 uniform offsets none in a tenth of the range at either end: false-alarm rate 1e-9.
  assert error.min() < -0.4
  assert error.max() > 0.4


def test_the_continuous_term_is_accurate_in_float32_at_high_log_snr():
  """At a log-SNR of 15 the optimal denoiser's error, 6e-4 of x_0, loses 4 of 7 digits to x_0."""
  x_0, predictions = data(20).astype(jnp.float32), []

  def predict_x_0(x_t, log_snr_t):
    predictions.append(analytic.gaussian_denoiser(DATA, np.float64(x_t), 15.0))
    return predictions[0].astype(jnp.float32)

  keys = jax.random.split(jax.random.key(0), 20)
  term = bounds.diffusion_continuous_term(keys, x_0, jnp.full(20, 15.0), predict_x_0)
  assert term.dtype == jnp.float32
  squared_error = jnp.sum((np.float64(x_0) - predictions[0]) ** 2, 1)
  np.testing.assert_allclose(term, 0.5 * np.exp(15.0) * squared_error, rtol=2e-3)


def test_no_times_are_refused():
  with pytest.raises(ValueError, match='num_times is 0; it is at least 1'):
    continuous_bound(num_times=0, n=2)


# A density ratio for each draw: x = z + N(0, 1), z ~ N(0, 1), q(z | x) = N(x / 2, 1).
def log_weights(x):
  def draw(keys):
    q = Normal(x[:, None] / 2, jnp.zeros((len(x), 1)))
    z = gaussian.sample(keys, q)
    prior, likelihood = Normal(0 * z, 0 * z), Normal(z, 0 * z)
    log_joint = gaussian.log_prob(prior, z) + gaussian.log_prob(likelihood, x[:, None])
    return log_joint - gaussian.log_prob(q, z)

  return draw


@pytest.mark.parametrize('chunk', [1, 3, 7, 10])
def test_streamed_draws_give_the_bound_of_the_same_draws_at_once(chunk):
  x, keys = jnp.array([0.3, -2.0, 40.0]), jax.random.split(jax.random.key(0), 3)
  draws = jnp.stack([log_weights(x)(random.fold_in(keys, i)) for i in range(7)])
  streamed = bounds.streamed_importance_weighted(keys, log_weights(x), 7, chunk)
  np.testing.assert_allclose(streamed, bounds.importance_weighted(draws), rtol=1e-12)


def test_streamed_bound_comes_to_the_likelihood():
  """5,000 draws; E[w] = p(x) = N(x; 0, 2): within 5 standard errors, false-alarm rate 3e-6."""
  x, k = jnp.linspace(-2, 2, 5), 5000
  keys = jax.random.split(jax.random.key(1), 5)
  bound = bounds.streamed_importance_weighted(keys, log_weights(x), k, chunk=64)
  exact = gaussian.log_prob(Normal(jnp.zeros((5, 1)), jnp.full((5, 1), np.log(2.0))), x[:, None])
  # Var[w] / p(x)^2 + 1 = E_q[(p(z | x) / q(z))^2] = int N(z; 0, 1/2)^2 / N(z; 0, 1) = sqrt(4 / 3)
  error = np.sqrt((np.sqrt(4 / 3) - 1) / k)
  assert np.all(np.abs(np.expm1(bound - exact)) < 5 * error)


@pytest.mark.parametrize(('num_draws', 'chunk', 'name'), [(0, 1, 'num_draws'), (5, 0, 'chunk')])
def test_no_draws_are_refused(num_draws, chunk, name):
  keys = jax.random.split(jax.random.key(0), 2)
  with pytest.raises(ValueError, match=f'{name} is 0; it is at least 1'):
    bounds.streamed_importance_weighted(keys, log_weights(jnp.zeros(2)), num_draws, chunk)
