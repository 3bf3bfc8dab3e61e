"""Plain repeated denoising with the exact denoiser: its loss, and how its chain contracts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaediff import analytic, forward_process, schedules
from vaediff.methods.base import Batch, Variables
from vaediff.methods.denoising_chain import denoising_chain
from vaediff.networks import Network

T, D = 12, 3
LOG_SNR = schedules.linear_log_snr(T, first=5.0, last=-4.0)
DATA = analytic.GaussianData(jnp.array([0.5, -0.25, 0.0]), jnp.array([0.3, 0.05, 1.0]))
ALPHA_BAR = 1 / (1 + np.exp(-LOG_SNR))
# x_t = r x_{t-1} + s eps.
RATIO = np.sqrt(ALPHA_BAR[1:] / ALPHA_BAR[:-1])
STEP_VARIANCE = 1 - RATIO**2
# C_t, the variance of q(x_t): [T+1, D].
VARIANCE = ALPHA_BAR[:, None] * np.asarray(DATA.covariance) + (1 - ALPHA_BAR[:, None])
MARGINAL_MEAN = np.sqrt(ALPHA_BAR)[:, None] * np.asarray(DATA.mean)


def exact_network() -> Network:
  """Its output stands for E[x_{t-1} | x_t], by conditioning the Gaussian of (x_{t-1}, x_t)."""
  table, ratio, scale = (jnp.float32(v) for v in (LOG_SNR, RATIO, np.sqrt(STEP_VARIANCE)))

  def apply(params, x_t, log_snr_t, label):
    t = 1 + jnp.argmin(jnp.abs(table[1:] - log_snr_t[..., None]), axis=-1)
    mean = analytic.gaussian_reverse_step(DATA, x_t, table[t - 1], table[t]).mean
    return (x_t - ratio[t - 1][..., None] * mean) / scale[t - 1][..., None]

  return Network(init=lambda key, *inputs: {}, apply=apply)


def constant_network() -> Network:
  """Its output is its parameter, its parameter at initialisation 0.1 plus a little noise."""
  return Network(
    init=lambda key, *inputs: 0.1 + 0.01 * jax.random.normal(key),
    apply=lambda params, x_t, log_snr_t, label: params + 0 * x_t,
  )


def make(network=None, **options):
  # With three levels `center` is x - 1, so that real numbers come in as x + 1.
  return denoising_chain(network or exact_network(), LOG_SNR, (D,), 3, **options)


def batch(n, seed=0) -> Batch:
  noise = np.random.default_rng(seed).normal(size=(n, D))
  x = DATA.mean + np.sqrt(DATA.covariance) * noise + 1
  return Batch(jnp.float32(x), np.full(n, -1, np.int32), np.arange(n, dtype=np.int32))


def keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


def test_the_loss_of_the_exact_denoiser_is_the_least_one():
  """E|eps - E[eps | x_t]|^2 / D = r^2 C_{t-1} / C_t on average over t and the dimensions.

  2^15 examples within 5 standard errors: false alarm rate 6e-7.
  """
  n = 2**15
  loss = np.asarray(jax.jit(make().loss)(Variables({}), keys(n), batch(n), 0)['loss'])
  exact = np.mean(RATIO[:, None] ** 2 * VARIANCE[:-1] / VARIANCE[1:])
  assert abs(loss.mean() - exact) < 5 * loss.std() / np.sqrt(n)
  assert exact < 0.8  # to guess that nothing was added costs 1, any other constant more


def test_the_loss_of_a_constant_output_is_its_distance_to_the_noise():
  """E(c - eps)^2 = 1 + c^2 at every level; 5 standard errors, false alarm rate 6e-7."""
  n = 2**14
  for c in (0.0, 0.7):
    loss = make(constant_network()).loss(Variables(c), keys(n), batch(n), 0)['loss']
    assert abs(np.mean(loss) - (1 + c**2)) < 5 * np.std(loss) / np.sqrt(n)


def test_the_chain_of_the_exact_denoiser_contracts():
  """Without the noise put back, each step multiplies x - E[x] by r C_{t-1} / C_t (lecture 2.2).

  From N(0, I) the variance comes out as alpha_bar_T / alpha_bar_t (C_t / C_T)^2: far below that of
  q(x_t), more and more so, and almost nothing is left of it at t = 0.
  """
  chain = jax.jit(make().trajectory)(Variables({}), keys(64), jnp.full(64, -1))
  x = np.asarray(chain['x'])
  assert x.shape == (64, T + 1, D)
  np.testing.assert_allclose(chain['log_snr'][3], LOG_SNR[::-1], rtol=1e-6)
  x_T, scale = x[:, 0], np.ones(D)
  share = []
  for t in range(T, -1, -1):
    exact = MARGINAL_MEAN[t] + scale * (x_T - MARGINAL_MEAN[T])
    np.testing.assert_allclose(x[:, T - t], exact, rtol=1e-4, atol=2e-5)
    closed_form = ALPHA_BAR[T] / ALPHA_BAR[t] * (VARIANCE[t] / VARIANCE[T]) ** 2
    np.testing.assert_allclose(scale**2, closed_form, rtol=1e-6)
    share.append(scale**2 / VARIANCE[t])
    scale = scale * RATIO[t - 1] * VARIANCE[t - 1] / VARIANCE[t]
  assert np.all(np.diff(share, axis=0) < 0)
  # What is left of the data's variance, C_0 alpha_bar_T / C_T^2, and the mean of every chain.
  np.testing.assert_allclose(
    share[-1], ALPHA_BAR[T] * DATA.covariance / VARIANCE[T] ** 2, rtol=1e-6
  )
  assert np.all(share[-1] < 0.02)
  np.testing.assert_allclose(x[:, -1].mean(0), DATA.mean, atol=0.1)


def test_the_first_state_is_standard_normal():
  """Moments of 2^14 x 3 numbers within 5 standard errors: false alarm rate 6e-7 each."""
  n = 2**14
  x_T = make(constant_network()).trajectory(Variables(0.0), keys(n), jnp.full(n, -1))['x'][:, 0]
  assert abs(np.mean(x_T)) < 5 / np.sqrt(x_T.size)
  assert abs(np.var(x_T) - 1) < 5 * np.sqrt(2 / x_T.size)


def test_samples_are_the_end_of_the_chain_on_the_nearest_level():
  method = make()
  label = jnp.full(256, -1)
  end = method.trajectory(Variables({}), keys(256), label)['x'][:, -1]
  sample = method.sample(Variables({}), keys(256), label)
  assert sample.dtype == jnp.uint8
  np.testing.assert_array_equal(sample, np.round(np.clip(end, -1, 1)) + 1)
  assert len(np.unique(sample)) > 1


def test_separate_networks_begin_apart_with_parameters_for_each_level():
  params = make(constant_network(), networks='separate').init(jax.random.key(0), batch(2)).params
  assert params.shape == (T,)
  assert len(np.unique(params)) == T


def test_each_level_has_a_network_of_its_own():
  """What one level's parameters change: the losses at that level alone, the chain from it on."""
  method = make(constant_network(), networks='separate')
  n = 512
  loss = jax.jit(lambda params: method.loss(Variables(params), keys(n), batch(n), 0)['loss'])
  chain = jax.jit(lambda params: method.trajectory(Variables(params), keys(4), jnp.zeros(4, int)))
  params = jnp.zeros(T)
  level = np.zeros(n, int)
  for t in range(1, T + 1):
    changed = params.at[t - 1].set(0.5)
    is_at_t = np.asarray(loss(changed) != loss(params))
    assert np.all(level[is_at_t] == 0)
    level[is_at_t] = t
    before, after = chain(params)['x'], chain(changed)['x']
    np.testing.assert_array_equal(before[:, : T - t + 1], after[:, : T - t + 1])
    # The guess is (x_t - s output) / r.
    shift = -np.sqrt(STEP_VARIANCE[t - 1]) * 0.5 / RATIO[t - 1]
    actual = after[:, T - t + 1] - before[:, T - t + 1]
    np.testing.assert_allclose(actual, shift, rtol=1e-3)
  # Every example has a level, and every level about as many: 5 standard deviations.
  counts = np.bincount(level, minlength=T + 1)
  assert counts[0] == 0
  assert np.all(np.abs(counts[1:] - n / T) < 5 * np.sqrt(n / T))


def test_separate_and_shared_networks_agree_where_their_parameters_do():
  shared, separate = make(constant_network()), make(constant_network(), networks='separate')
  one, all_same = Variables(jnp.float32(0.3)), Variables(jnp.full(T, 0.3))
  for a, b in (
    (shared.loss(one, keys(8), batch(8), 0), separate.loss(all_same, keys(8), batch(8), 0)),
    (
      shared.trajectory(one, keys(8), jnp.zeros(8, int)),
      separate.trajectory(all_same, keys(8), jnp.zeros(8, int)),
    ),
  ):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), a, b)


def test_each_example_and_each_step_has_the_network_of_its_own_level():
  """A network whose output is 0 where its parameter is the log-SNR that it sees, else far away."""
  difference = Network(
    lambda key, *inputs: {},
    lambda params, x_t, log_snr_t, label: 1e3 * (params - log_snr_t)[..., None] + 0 * x_t,
  )
  method, none = make(difference, networks='separate'), make(constant_network())
  own, zero = Variables(jnp.float32(LOG_SNR[1:])), Variables(0.0)
  for name in ('loss', 'trajectory'):
    inputs = (batch(64), 0) if name == 'loss' else (jnp.zeros(64, int),)
    actual, exact = (
      jax.jit(getattr(m, name))(v, keys(64), *inputs) for m, v in ((method, own), (none, zero))
    )
    for key, value in exact.items():
      np.testing.assert_allclose(actual[key], value, rtol=1e-5, err_msg=key)


def test_the_network_sees_x_t_at_its_own_log_snr_and_its_label():
  """Tells the level from log_snr_t and gives the exact noise of a known x_0: loss 0 at t = 1."""
  seen = []

  def apply(params, x_t, log_snr_t, label):
    seen.append((log_snr_t, label))
    # The data are the point 0: x_t = r x_s + s eps has variance 1 - alpha_bar_t.
    return x_t / forward_process.noise_scale(log_snr_t)[..., None]

  method = make(Network(lambda key, *inputs: {}, apply))
  n = 2**14
  point = Batch(jnp.ones((n, D)), jnp.arange(n), jnp.arange(n))
  loss = np.asarray(method.loss(Variables({}), keys(n), point, 0)['loss'])
  ((log_snr_t, label),) = seen
  np.testing.assert_array_equal(label, np.arange(n))
  is_first = np.asarray(log_snr_t) == np.float32(LOG_SNR[1])
  np.testing.assert_allclose(loss[is_first], 0, atol=1e-10)
  # Elsewhere E(x_t / noise_t - eps)^2 = 2 (1 - s / noise_t); 5 standard errors for each level.
  for t in range(2, T + 1):
    own = loss[np.asarray(log_snr_t) == np.float32(LOG_SNR[t])]
    exact = 2 * (1 - np.sqrt(STEP_VARIANCE[t - 1] / (1 - ALPHA_BAR[t])))
    assert abs(own.mean() - exact) < 5 * own.std() / np.sqrt(len(own))


def test_unknown_networks_are_refused():
  with pytest.raises(ValueError, match="networks is 'nonsense'; it is one of shared, separate"):
    make(networks='nonsense')
