"""The forward process: Bayes' rule, composition, Ho et al.'s formulas, the ends t = 1 and t = T."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaediff import forward_process, gaussian, schedules

SHAPE = (4, 3, 2)
TABLES = {
  'linear1000': schedules.linear(1000),
  'linear4000': schedules.linear(4000),
  'cosine1000': schedules.cosine(1000),
  'cosine4000': schedules.cosine(4000),
  'log_snr100': schedules.linear_log_snr(100),
}


def draw(seed):
  return jnp.asarray(np.random.default_rng(seed).normal(size=SHAPE), jnp.float32)


@pytest.mark.parametrize('name', TABLES)
def test_bayes_rule(name):
  """q(x_s | x_t, x_0) q(x_t | x_0) = q(x_s | x_0) q(x_t | x_s), on draws from the process."""
  table, T = TABLES[name], len(TABLES[name]) - 1
  x_0 = draw(0)
  for s, t in [(1, 2), (1, T), (T // 3, T // 2), (T - 1, T), (2, T - 1)]:
    q_s = forward_process.marginal(x_0, table[s])
    x_s = gaussian.sample(jax.random.key(s), q_s)
    q_t_given_s = forward_process.transition(x_s, table[s], table[t])
    x_t = gaussian.sample(jax.random.key(t), q_t_given_s)
    left = gaussian.log_prob(
      forward_process.posterior(x_0, x_t, table[s], table[t]), x_s
    ) + gaussian.log_prob(forward_process.marginal(x_0, table[t]), x_t)
    right = gaussian.log_prob(q_s, x_s) + gaussian.log_prob(q_t_given_s, x_t)
    np.testing.assert_allclose(left, right, rtol=2e-4, atol=2e-3)


@pytest.mark.parametrize('name', TABLES)
def test_transitions_compose_to_the_marginal(name):
  table, T = TABLES[name], len(TABLES[name]) - 1
  x_0 = draw(0)
  for s, t in [(1, 2), (5, T), (T - 1, T)]:
    q_s, q_t = (forward_process.marginal(x_0, table[i]) for i in (s, t))
    step = forward_process.transition(q_s.mean, table[s], table[t])
    gain = np.exp(0.5 * (np.log(1 / (1 + np.exp(-table[t]))) - np.log(1 / (1 + np.exp(-table[s])))))
    np.testing.assert_allclose(step.mean, q_t.mean, rtol=2e-5, atol=1e-9)
    variance = gain**2 * np.exp(np.float64(q_s.log_var)) + np.exp(np.float64(step.log_var))
    np.testing.assert_allclose(variance, np.exp(np.float64(q_t.log_var)), rtol=2e-5)


def test_posterior_is_equation_7_of_ho_et_al():
  betas = np.linspace(1e-4, 0.02, 1000)
  alpha_bar = np.concatenate([[1.0], np.cumprod(1 - betas)])
  table = schedules.linear(1000)
  x_0, x_t = draw(0), draw(1)
  for t in (1, 2, 10, 500, 999, 1000):
    beta = betas[t - 1]
    share_0 = np.sqrt(alpha_bar[t - 1]) * beta / (1 - alpha_bar[t])
    share_t = np.sqrt(1 - beta) * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])
    q = forward_process.posterior(x_0, x_t, table[t - 1], table[t])
    np.testing.assert_allclose(q.mean, share_0 * x_0 + share_t * x_t, rtol=1e-4, atol=1e-5)
    variance = (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) * beta
    np.testing.assert_allclose(np.exp(q.log_var), variance, rtol=3e-4)
    step = forward_process.transition(x_0, table[t - 1], table[t])
    np.testing.assert_allclose(step.mean, np.sqrt(1 - beta) * x_0, rtol=1e-5)
    np.testing.assert_allclose(np.exp(step.log_var), beta, rtol=3e-4)


def test_the_posterior_at_t_1_is_the_point_x_0():
  x_0, x_t = draw(0), draw(1)
  for table in TABLES.values():
    q = forward_process.posterior(x_0, x_t, table[0], table[1])
    np.testing.assert_array_equal(q.mean, x_0)
    assert np.all(np.isneginf(q.log_var))
    np.testing.assert_array_equal(gaussian.sample(jax.random.key(0), q), x_0)
    q = forward_process.marginal(x_0, table[0])
    np.testing.assert_array_equal(gaussian.sample(jax.random.key(0), q), x_0)
    first = forward_process.transition(x_0, table[0], table[1])
    marginal = forward_process.marginal(x_0, table[1])
    np.testing.assert_allclose(first.mean, marginal.mean, rtol=1e-6)
    np.testing.assert_allclose(first.log_var, marginal.log_var, rtol=1e-6)


@pytest.mark.parametrize('name', TABLES)
def test_gradients_are_finite_at_both_ends(name):
  table = jnp.asarray(TABLES[name], jnp.float32)
  T = len(table) - 1
  x_0, x_t, key = draw(0), draw(1), jax.random.key(0)

  def total(x_0, x_t, log_snr_s, log_snr_t):
    q = forward_process.posterior(x_0, x_t, log_snr_s, log_snr_t)
    step = forward_process.transition(x_t, log_snr_s, log_snr_t)
    marginal = forward_process.marginal(x_0, log_snr_t)
    return sum(jnp.sum(gaussian.sample(key, d)) for d in (q, step, marginal))

  for t in (1, 2, T):
    value, gradients = jax.value_and_grad(total, argnums=(0, 1, 2, 3))(
      x_0, x_t, table[t - 1], table[t]
    )
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(g)) for g in gradients), t


@pytest.mark.parametrize('log_snr', [9.0, 3.0, 0.0, -4.0, -10.0])
def test_conversion_round_trips(log_snr):
  x_0, eps = draw(0), draw(1)
  x_t = forward_process.signal_scale(log_snr) * x_0 + forward_process.noise_scale(log_snr) * eps
  v = forward_process.signal_scale(log_snr) * eps - forward_process.noise_scale(log_snr) * x_0
  # Dividing by a small scale multiplies the rounding of x_t (6e-8) by its inverse.
  from_eps = 1e-6 / forward_process.signal_scale(log_snr)
  from_x_0 = 1e-6 / forward_process.noise_scale(log_snr)

  def close(a, b, atol):
    return np.testing.assert_allclose(a, b, atol=atol)

  close(forward_process.x_0_from_eps(x_t, eps, log_snr), x_0, from_eps)
  close(forward_process.eps_from_x_0(x_t, x_0, log_snr), eps, from_x_0)
  close(forward_process.x_0_from_v(x_t, v, log_snr), x_0, 2e-6)
  close(forward_process.v_from_x_0(x_t, x_0, log_snr), v, from_x_0)


def test_each_example_may_have_its_own_time():
  table = TABLES['cosine1000']
  x_0, x_t, t = draw(0), draw(1), np.array([1, 2, 500, 1000])
  together = forward_process.posterior(x_0, x_t, table[t - 1], table[t])
  for b in range(4):
    alone = forward_process.posterior(x_0[b : b + 1], x_t[b : b + 1], table[t[b] - 1], table[t[b]])
    np.testing.assert_array_equal(together.mean[b : b + 1], alone.mean)
    np.testing.assert_array_equal(together.log_var[b : b + 1], alone.log_var)


def test_signal_and_noise_share_unit_variance():
  log_snr = jnp.linspace(-40, 40, 81)
  total = forward_process.signal_scale(log_snr) ** 2 + forward_process.noise_scale(log_snr) ** 2
  np.testing.assert_allclose(total, 1, rtol=1e-6)
