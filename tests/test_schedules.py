"""Noise schedules against their papers' formulas."""

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


def test_wrong_arguments_are_refused():
  for schedule in (schedules.linear, schedules.cosine, schedules.linear_log_snr):
    with pytest.raises(ValueError, match='T is 0'):
      schedule(0)
  with pytest.raises(ValueError, match=r'beta_last is 1\.5'):
    schedules.linear(10, beta_last=1.5)
  with pytest.raises(ValueError, match='has to fall'):
    schedules.linear_log_snr(10, first=1.0, last=2.0)


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
