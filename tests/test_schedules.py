"""Noise schedules against their papers' formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaediff import schedules


def alpha_bar(log_snr):
  return 1 / (1 + np.exp(-log_snr))


@pytest.mark.parametrize('T', [1, 2, 10, 1000, 4000])
@pytest.mark.parametrize(
  'schedule',
  [schedules.linear, schedules.cosine, schedules.linear_log_snr],
  ids=lambda s: s.__name__,
)
def test_tables_fall_from_clean_data(schedule, T):
  table = schedule(T)
  assert table.shape == (T + 1,)
  assert table.dtype == np.float64
  assert table[0] == np.inf
  assert np.all(np.diff(table) < 0)
  assert np.all(np.isfinite(table[1:]))


def test_linear_is_ho_et_al():
  betas = np.linspace(1e-4, 0.02, 1000)
  np.testing.assert_allclose(
    alpha_bar(schedules.linear(1000)[1:]), np.cumprod(1 - betas), rtol=1e-10
  )
  # Ho et al. 2020, section 4: "D_KL(q(x_T | x_0) || N(0, I)) about 1e-5 bits per dimension".
  snr_T = np.exp(schedules.linear(1000)[-1])
  assert snr_T == pytest.approx(4e-5, rel=0.05)


def test_cosine_is_nichol_and_dhariwal():
  T, s = 1000, 0.008
  f = np.cos((np.arange(T + 1) / T + s) / (1 + s) * np.pi / 2) ** 2
  expected = f / f[0]
  table = alpha_bar(schedules.cosine(T))
  np.testing.assert_allclose(table[:-1], expected[:-1], rtol=1e-9)
  betas = 1 - table[1:] / table[:-1]
  assert betas[-1] == pytest.approx(0.999)
  assert np.all(betas <= 0.999 + 1e-12)


def test_linear_log_snr_has_its_ends():
  table = schedules.linear_log_snr(100, first=13.3, last=-5.0)
  assert (table[1], table[-1]) == (13.3, -5.0)
  np.testing.assert_allclose(np.diff(table[1:]), -18.3 / 99)


def random_params(schedule, seed):
  """Parameters away from their initial values, with sigmoids that weigh as much as the line."""
  rng = np.random.default_rng(seed)
  params = jax.tree.map(
    lambda leaf: leaf + jnp.float32(rng.normal(size=leaf.shape)), schedule.init()
  )
  return params | {'weights': params['weights'] + 6}


@pytest.mark.parametrize('T', [2, 10, 1000, 4000])
def test_learned_begins_as_linear_but_for_a_hundredth(T):
  for first, last in ((13.3, -5.0), (7.5, -10.0)):
    schedule = schedules.learned(T, first, last)
    assert schedule.T == T
    table = schedule.table(schedule.init())
    assert (table.shape, table.dtype, table[0]) == ((T + 1,), jnp.float32, jnp.inf)
    exact = schedules.linear_log_snr(T, first, last)
    np.testing.assert_allclose(table[1:], exact[1:], atol=0.01 * (first - last))
    np.testing.assert_allclose(table[jnp.array([1, T])], [first, last], rtol=1e-5)


@pytest.mark.parametrize('seed', range(5))
def test_learned_falls_between_its_ends_whatever_its_parameters(seed):
  schedule = schedules.learned(1000)
  params = random_params(schedule, seed)
  table = np.asarray(schedule.table(params))
  assert np.all(np.diff(table) < 0)
  assert table[1] == params['first']
  last = params['first'] - np.logaddexp(0, params['range'])
  np.testing.assert_allclose(table[-1], last, rtol=1e-5)
  # Its shape is learned as well: it is no line.
  line = np.linspace(table[1], table[-1], 1000)
  assert np.max(np.abs(table[1:] - line)) > 0.1


def test_learned_is_a_line_and_sigmoids():
  """Against the formula in float64, at 1, 2, ..., T."""
  T = 7
  schedule = schedules.learned(T, num_units=3)
  params = random_params(schedule, 0)
  p = {name: np.asarray(value, np.float64) for name, value in params.items()}

  def height(u):
    units = 1 / (1 + np.exp(-np.logaddexp(0, p['slopes']) * (u - p['centers'])))
    return np.logaddexp(0, p['line']) * u + np.sum(np.logaddexp(0, p['weights']) * units)

  fall = [(height(t / (T - 1)) - height(0)) / (height(1) - height(0)) for t in range(T)]
  exact = p['first'] - np.logaddexp(0, p['range']) * np.array(fall)
  np.testing.assert_allclose(schedule.table(params)[1:], exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('seed', range(3))
def test_learned_has_finite_gradients_that_change_everything(seed):
  schedule = schedules.learned(1000)
  params = random_params(schedule, seed)
  weight = jax.random.normal(jax.random.key(seed), (1000,))
  gradient = jax.grad(lambda p: jnp.vdot(weight, schedule.table(p)[1:]))(params)
  for leaf in jax.tree.leaves(gradient):
    assert np.all(np.isfinite(leaf))
    assert np.any(leaf != 0)


def test_wrong_arguments_are_refused():
  for schedule in (schedules.linear, schedules.cosine, schedules.linear_log_snr):
    with pytest.raises(ValueError, match='T is 0'):
      schedule(0)
  with pytest.raises(ValueError, match=r'beta_last is 1\.5'):
    schedules.linear(10, beta_last=1.5)
  with pytest.raises(ValueError, match='has to fall'):
    schedules.linear_log_snr(10, first=1.0, last=2.0)
  with pytest.raises(ValueError, match='T is 1; a learned schedule has at least two steps'):
    schedules.learned(1)
  with pytest.raises(ValueError, match='has to fall'):
    schedules.learned(10, first=1.0, last=1.0)


def test_linear_kl_weight_waits_then_rises():
  weight = schedules.linear_kl_weight(2.0, warmup_steps=10, start=5)
  assert [float(weight(step)) for step in (0, 5, 10, 15, 99)] == [0, 0, 1, 2, 2]
  constant = schedules.linear_kl_weight(0.5)
  assert [float(constant(step)) for step in (0, 99)] == [0.5, 0.5]
  late = schedules.linear_kl_weight(0.5, start=3)
  assert [float(late(step)) for step in (2, 3)] == [0, 0.5]


def test_cyclical_kl_weight_is_fu_et_al():
  weight = schedules.cyclical_kl_weight(1.0, period=8, ramp=0.5)
  steps = (0, 2, 4, 7, 8, 10, 12)
  assert [float(weight(step)) for step in steps] == [0, 0.5, 1, 1, 0, 0.5, 1]


def test_wrong_kl_weights_are_refused():
  with pytest.raises(ValueError, match='beta is -1'):
    schedules.linear_kl_weight(-1)
  with pytest.raises(ValueError, match='ramp'):
    schedules.cyclical_kl_weight(1.0, period=8, ramp=1.5)
