"""The reverse process: what predictions stand for; variances fixed, learned and fitted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from vaediff import forward_process, likelihoods, reverse_process, schedules

TABLES = {
  'linear': schedules.linear(1000),
  'cosine': schedules.cosine(4000),
  'linear_log_snr': schedules.linear_log_snr(4000),
  'two steps': schedules.cosine(2),
}


@pytest.fixture(params=TABLES)
def log_snr(request):
  return jnp.float32(TABLES[request.param])


def fixed(log_snr):
  return (reverse_process.fixed_log_var(log_snr, f'fixed_{size}') for size in ('small', 'large'))


def learned(log_snr, output, variance):
  """The learned log-variances [T], from one output for all t."""
  T = len(log_snr) - 1
  t, output = jnp.arange(1, T + 1), jnp.full((T, 1), output)
  return reverse_process.learned_log_var(log_snr, t, output, variance)[:, 0]


@pytest.mark.parametrize('prediction', ['eps', 'x_0', 'v'])
def test_the_right_output_stands_for_x_0(prediction):
  x_0, eps, log_snr_t = (jax.random.normal(jax.random.key(i), (5, 3)) for i in range(3))
  log_snr_t = 2 * log_snr_t[:, 0]
  over_event = log_snr_t[:, None]
  signal, noise = forward_process.signal_scale(over_event), forward_process.noise_scale(over_event)
  output = {'eps': eps, 'x_0': x_0, 'v': signal * eps - noise * x_0}[prediction]
  x_t = signal * x_0 + noise * eps
  predicted = reverse_process.x_0_from(prediction, x_t, output, log_snr_t)
  np.testing.assert_allclose(predicted, x_0, rtol=1e-4, atol=1e-5)


def test_levels_stand_for_the_mean_by_bayes_rule_in_each_dimension():
  """Two channels with priors of their own, at one noise level per example."""
  K, log_snr_t = 5, jnp.array([-2.0, 1.0, 6.0])
  x_t = jax.random.normal(jax.random.key(0), (3, 4, 2))
  output = 2 * jax.random.normal(jax.random.key(1), (3, 4, 2 * K))
  prior = np.exp(np.float64(output)).reshape(3, 4, 2, K)
  signal, noise = (np.float64(s)[..., None] for s in forward_process.scales(log_snr_t, x_t))
  levels = np.linspace(-1, 1, K)
  weights = prior * scipy.stats.norm.pdf(np.float64(x_t)[..., None], signal * levels, noise)
  exact = (weights * levels).sum(-1) / weights.sum(-1)
  ours = reverse_process.x_0_from('levels', x_t, output, log_snr_t)
  np.testing.assert_allclose(ours, exact, atol=1e-6)


def test_levels_are_exact_and_differentiable_at_the_smallest_noise():
  """At a log-SNR of 13.3, where float32 resolves x_t to 1e-4 of the noise, and beyond any level."""
  K = 256
  x_0 = likelihoods.center(np.array([[0, 100, 255]]), K)
  log_snr_t = jnp.array([13.3])
  signal, noise = forward_process.scales(log_snr_t, x_0)
  output = jax.random.normal(jax.random.key(0), (1, 3 * K))

  def predict(output):
    return reverse_process.x_0_from('levels', signal * x_0 + 0.5 * noise, output, log_snr_t)

  np.testing.assert_allclose(predict(output), x_0, atol=1e-3 * 2 / 255)
  far = reverse_process.x_0_from('levels', jnp.full((1, 3), 5.0), output, log_snr_t)
  np.testing.assert_allclose(far, 1, atol=1e-6)
  assert np.isfinite(jax.jacobian(predict)(output)).all()


def test_fixed_variances_are_the_two_choices_of_ho_et_al():
  table = schedules.linear(1000)
  betas = np.linspace(1e-4, 0.02, 1000)
  alpha_bar = np.concatenate([[1.0], np.cumprod(1 - betas)])
  small, large = (np.exp(log_var) for log_var in fixed(jnp.float32(table)))
  np.testing.assert_allclose(large, betas, rtol=3e-4)
  exact = betas * (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:])
  np.testing.assert_allclose(small[1:], exact[1:], rtol=3e-4)
  assert small[0] == small[1]
  small, large = fixed(jnp.float32(schedules.cosine(1)))
  np.testing.assert_array_equal(small, large)


def test_interpolated_is_small_mean_and_large_at_its_three_outputs(log_snr):
  """Nichol & Dhariwal 2021, eq. 15, with v = 0, 1/2, 1; beyond them the line goes on."""
  small, large = fixed(log_snr)
  for output, exact in (
    (-1.0, small),
    (0.0, 0.5 * (small + large)),
    (1.0, large),
    (3.0, 2 * large - small),
  ):
    actual = learned(log_snr, output, 'interpolated')
    np.testing.assert_allclose(actual, exact, rtol=1e-5, atol=1e-5)


def test_free_is_large_times_the_exponential_and_bounded(log_snr):
  _, large = fixed(log_snr)
  np.testing.assert_array_equal(learned(log_snr, 0.0, 'free'), large)
  np.testing.assert_allclose(learned(log_snr, 0.1, 'free'), large + 0.1, atol=1e-5)
  for output in (1e3, -1e3, 1e30):
    bound = np.sign(output) * reverse_process.FREE_RANGE
    np.testing.assert_allclose(learned(log_snr, output, 'free'), large + bound, rtol=1e-6)


def test_each_pixel_has_the_variance_of_its_own_output_and_time():
  log_snr = jnp.float32(TABLES['linear'])
  t, output = jnp.array([1, 7, 1000]), jax.random.normal(jax.random.key(0), (3, 2, 2, 1))
  for variance in reverse_process.LEARNED_VARIANCES:
    log_var = reverse_process.learned_log_var(log_snr, t, output, variance)
    for i, place in ((0, (0, 0, 0)), (1, (1, 0, 0)), (2, (0, 1, 0))):
      exact = learned(log_snr, output[(i, *place)], variance)[t[i] - 1]
      np.testing.assert_allclose(log_var[(i, *place)], exact, rtol=1e-5)


def test_the_optimal_variance_of_a_point_is_the_smaller_one(log_snr):
  """Its denoiser makes no error; at t = 1 what is left is a point."""
  small, _ = fixed(log_snr)
  log_var = reverse_process.optimal_log_var(log_snr, jnp.zeros(len(small)))
  np.testing.assert_allclose(log_var[1:], small[1:], rtol=1e-5, atol=1e-5)
  assert log_var[0] == -jnp.inf


def test_the_optimal_variance_of_standard_normal_data_is_the_larger_one(log_snr):
  """E|x_0 - E[x_0 | x_t]|^2 / D = 1 - alpha_bar_t, and every x_t is N(0, I) as well."""
  _, large = fixed(log_snr)
  log_var = reverse_process.optimal_log_var(log_snr, jax.nn.sigmoid(-log_snr[1:]))
  np.testing.assert_allclose(log_var, large, rtol=1e-5, atol=1e-5)


def test_mean_error_averages_each_level_and_fills_in_the_missing():
  t = np.array([[2, 5], [2, 7], [7, 7]])
  error = np.array([[1.0, 4.0], [3.0, 6.0], [8.0, 10.0]], np.float32)
  # Levels 2, 5, 7 have 2, 4, 8; the others are on the line between them, or as the outermost.
  exact = [2, 2, 2 + 2 / 3, 2 + 4 / 3, 4, 6, 8, 8]
  actual = reverse_process.mean_error(8, t, error)
  np.testing.assert_allclose(actual, exact, rtol=1e-6)
  assert actual.dtype == np.float32


def test_gradients_are_finite_at_every_level(log_snr):
  """Of every log-variance by the output and by the schedule's own finite levels."""

  def total(finite, output, variance):
    table = jnp.concatenate([jnp.full(1, jnp.inf), finite])
    if variance in reverse_process.LEARNED_VARIANCES:
      return jnp.sum(learned(table, output, variance))
    if variance == 'optimal':
      return jnp.sum(reverse_process.optimal_log_var(table, jnp.full(len(finite), 0.01)))
    return jnp.sum(reverse_process.fixed_log_var(table, variance))

  for variance in reverse_process.VARIANCES:
    gradient = jax.grad(total, argnums=(0, 1))(log_snr[1:], 0.3, variance)
    assert all(np.all(np.isfinite(leaf)) for leaf in gradient), variance
