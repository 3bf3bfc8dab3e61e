"""The diffusion bound against exact answers: Gaussian data, with the optimal reverse step.

For x_0 ~ N(m, s^2) in every dimension, q(x_t) and q(x_{t-1} | x_t) are Gaussian in closed form.
With it in the bound, nothing is lost but the prior's mismatch: the expected bound exceeds the
expected -log p(x_0) by KL(q(x_T) | N(0, I)) exactly, at every T.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaediff import bounds, forward_process, gaussian, schedules
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
