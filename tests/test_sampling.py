"""Samplers against exact answers: the denoiser of Gaussian and mixture data in closed form.

Statistical checks stay within 5 standard errors: false alarm rate 6e-7 for each number compared.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from vaediff import forward_process, random, sampling, schedules
from vaediff.gaussian import Normal

MEAN, STD = np.array([[0.4, -0.3]]), np.array([[0.7, 0.2]])
WEIGHTS = np.array([0.3, 0.7])
MODES, MODE_STDS = np.array([[-0.8, 0.5], [0.6, -0.2]]), np.array([[0.1, 0.15], [0.2, 0.1]])
# Starting at N(0, I) in place of q(x_T) shifts x_T by exp(-6) of the mean: nothing that shows here.
FIRST, LAST = 10.0, -12.0


def denoiser(weights, modes, stds):
  """E[x_0 | x_t] of a mixture of K Gaussians: weights [K], modes and stds [K, D].

  Each component answers m + a s^2 / (a^2 s^2 + b^2) (x_t - a m), a = signal_scale, b = noise_scale,
  weighted by its responsibility for x_t.
  """

  def predict_x_0(x_t, log_snr_t):
    a = jnp.sqrt(jax.nn.sigmoid(log_snr_t))[..., None, None]
    var = a**2 * stds**2 + jax.nn.sigmoid(-log_snr_t)[..., None, None]
    distance = x_t[:, None] - a * modes
    log_joint = jnp.log(weights) - 0.5 * jnp.sum(jnp.log(var) + distance**2 / var, axis=-1)
    answers = modes + a * stds**2 / var * distance
    mean = jnp.sum(jax.nn.softmax(log_joint)[..., None] * answers, axis=1)
    return mean.astype(x_t.dtype)

  return predict_x_0


GAUSSIAN = denoiser(np.ones(1), MEAN, STD)
MIXTURE = denoiser(WEIGHTS, MODES, MODE_STDS)


def scales(log_snr):
  return 1 / np.sqrt(1 + np.exp(-log_snr)), 1 / np.sqrt(1 + np.exp(log_snr))


def marginal(log_snr):
  """The mean and standard deviation of q(x_t) of the Gaussian data."""
  a, b = scales(log_snr)
  return a * MEAN, np.sqrt(a**2 * STD**2 + b**2)


def posterior_step(predict_x_0, log_snr):
  """p(x_{t-1} | x_t) with the variance of q(x_{t-1} | x_t, x_0), 'fixed small'."""

  def reverse_step(x_t, t):
    table = jnp.asarray(log_snr, x_t.dtype)
    return forward_process.posterior(predict_x_0(x_t, table[t]), x_t, table[t - 1], table[t])

  return reverse_step


def exact_step(log_snr):
  """q(x_{t-1} | x_t) of the Gaussian data, by conditioning the joint Gaussian of the two."""
  a, b = scales(log_snr)
  a, var = a[:, None], a[:, None] ** 2 * STD**2 + b[:, None] ** 2

  def reverse_step(x_t, t):
    table_a, table_var = jnp.asarray(a, x_t.dtype), jnp.asarray(var, x_t.dtype)
    gain = table_a[t] / table_a[t - 1] * table_var[t - 1] / table_var[t]
    mean = table_a[t - 1] * MEAN + gain * (x_t - table_a[t] * MEAN)
    left = table_var[t - 1] - gain * table_a[t] / table_a[t - 1] * table_var[t - 1]
    return Normal(mean.astype(x_t.dtype), jnp.log(left))

  return reverse_step


def ancestral(keys, event_shape, predict_x_0, log_snr, **options):
  """`sampling.ancestral` with the signature of the solvers."""
  reverse_step = posterior_step(predict_x_0, log_snr)
  return sampling.ancestral(keys, event_shape, reverse_step, len(log_snr) - 1, **options)


def with_eta(solver, eta):
  return functools.partial(solver, eta=eta)


# DDIM with eta = 1 is `ancestral`, as a test shows.
SAMPLERS = {
  'ancestral': ancestral,
  'ddim_half': with_eta(sampling.ddim, 0.5),
  'sde_2m': with_eta(sampling.dpm_solver_pp_2m, 1.0),
  'half_sde_2m': with_eta(sampling.dpm_solver_pp_2m, 0.5),
  **sampling.SOLVERS,
}
DETERMINISTIC = list(sampling.SOLVERS)
# Enough for a bias below one standard error.
NUM_STEPS = {
  'ancestral': 800,
  'ddim_half': 400,
  'sde_2m': 100,
  'half_sde_2m': 100,
  'ddim': 400,
  'dpm_solver_pp_2m': 50,
  'heun': 50,
}


def respaced(table, num_steps, spacing='time'):
  return table[sampling.respace(table, num_steps, spacing)]


def keys_of(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


def run(sampler, n, predict_x_0, log_snr, **options):
  """One compiled run of n examples in two dimensions."""
  return jax.jit(lambda keys: sampler(keys, (2,), predict_x_0, log_snr, **options))(keys_of(n))


def draw(name, predict_x_0, n=5_000):
  table = schedules.linear_log_snr(NUM_STEPS[name], FIRST, LAST)
  return np.asarray(run(SAMPLERS[name], n, predict_x_0, table), np.float64)


def check_moments(x, mean, std):
  """Mean, variances and correlation of Gaussian draws [N, 2] with independent components."""
  n = len(x)
  z = (x - mean) / std
  assert np.all(np.abs(z.mean(0)) < 5 / np.sqrt(n))
  assert np.all(np.abs(z.var(0) - 1) < 5 * np.sqrt(2 / n))
  assert abs(np.mean(z[:, 0] * z[:, 1])) < 5 / np.sqrt(n)


@functools.cache
def six_steps(name):
  """(x_0, states) of 8 examples on the mixture, and the table."""
  table = schedules.linear_log_snr(6)
  return (*run(SAMPLERS[name], 8, MIXTURE, table, trajectory=True), table)


@pytest.fixture
def float64():
  jax.config.update('jax_enable_x64', True)
  yield
  jax.config.update('jax_enable_x64', False)


# The distributions


@pytest.mark.parametrize('name', SAMPLERS)
def test_gaussian_data(name):
  """5,000 draws: means to 7% of a standard deviation, variances to 10%."""
  check_moments(draw(name, GAUSSIAN), MEAN, STD)


@pytest.mark.parametrize('name', SAMPLERS)
def test_mixture_data(name):
  """5,000 draws: weights to 0.032; in each mode, over 4 sigma from the border, moments."""
  x = draw(name, MIXTURE)
  is_first = x[:, 0] < -0.3
  assert abs(is_first.mean() - WEIGHTS[0]) < 5 * np.sqrt(np.prod(WEIGHTS) / len(x))
  check_moments(x[is_first], MODES[0], MODE_STDS[0])
  check_moments(x[~is_first], MODES[1], MODE_STDS[1])


@pytest.mark.parametrize('T', [1, 5])
def test_ancestral_with_the_exact_reverse_step_is_exact_in_any_number_of_steps(T):
  """But for the last step, which is a mean: q(x_0 | x_1) keeps exp(-10) of the unit variance."""
  table = np.concatenate([[np.inf], np.linspace(FIRST, LAST, T + 1)])
  chain = jax.jit(lambda keys: sampling.ancestral(keys, (2,), exact_step(table), T + 1))
  check_moments(np.asarray(chain(keys_of(20_000)), np.float64), MEAN, STD)


# The probability flow


def error_at_level_1(name, num_steps, predict_x_0, x_T, error):
  table = schedules.linear_log_snr(num_steps, 6.0, -4.0)
  arguments = keys_of(len(x_T)), x_T.shape[1:], predict_x_0, table
  _, states = jax.jit(lambda: sampling.SOLVERS[name](*arguments, x_T=x_T, trajectory=True))()
  return error(np.asarray(states[-2]), table[1], table[-1])


ORDERS = {'ddim': 1, 'dpm_solver_pp_2m': 2, 'heun': 2}


def fitted_order(name, predict_x_0, x_T, error):
  num_steps = np.array([32, 90, 256])
  errors = [error_at_level_1(name, num, predict_x_0, jnp.asarray(x_T), error) for num in num_steps]
  assert errors[-1] > 1e-9  # else rounding is what is fitted
  return -np.polyfit(np.log(num_steps - 1), np.log(errors), 1)[0]


@pytest.mark.parametrize('name', DETERMINISTIC)
@pytest.mark.usefixtures('float64')
def test_order_of_convergence_on_gaussian_data(name):
  """The flow keeps (x_t - mean_t) / std_t: both it and the density move with the same velocity."""

  def error(x_1, log_snr_1, log_snr_T):
    (mean_1, std_1), (mean_T, std_T) = marginal(log_snr_1), marginal(log_snr_T)
    return np.abs(x_1 - (mean_1 + std_1 / std_T * (x_T - mean_T))).max()

  x_T = np.random.default_rng(0).normal(size=(64, 2))
  order = fitted_order(name, GAUSSIAN, x_T, error)
  assert abs(order - ORDERS[name]) < 0.1


@pytest.mark.parametrize('name', DETERMINISTIC)
@pytest.mark.usefixtures('float64')
def test_order_of_convergence_on_a_mixture(name):
  """In one dimension paths do not cross: the flow keeps the distribution function."""
  modes, stds = np.array([-0.6, 0.5]), np.array([0.2, 0.3])

  def cdf(x, log_snr):
    a, b = scales(log_snr)
    return norm.cdf(x, a * modes, np.sqrt(a**2 * stds**2 + b**2)) @ WEIGHTS

  def error(x_1, log_snr_1, log_snr_T):
    return np.abs(cdf(x_1, log_snr_1) - cdf(x_T, log_snr_T)).max()

  x_T = norm.ppf((np.arange(64) + 0.5) / 64)[:, None]
  order = fitted_order(name, denoiser(WEIGHTS, modes[:, None], stds[:, None]), x_T, error)
  assert abs(order - ORDERS[name]) < 0.15


def mean_error_in_few_steps(name, table):
  """Against the flow in 400 steps, from the same x_T, on the mixture."""
  exact = schedules.linear_log_snr(400, table[1], table[-1])
  near = run(sampling.SOLVERS[name], 500, MIXTURE, table)
  return float(jnp.mean(jnp.abs(near - run(sampling.heun, 500, MIXTURE, exact))))


def test_heun_stands_the_leap_of_the_cosine_schedule():
  """The first step divides noise / signal by 3,500: averaging eps, the error would be 2.8."""
  table = respaced(schedules.cosine(1000), 10)
  assert mean_error_in_few_steps('heun', table) < 0.1


def test_even_spacing_in_log_snr_serves_few_steps_on_the_linear_schedule():
  in_time, in_log_snr = (
    mean_error_in_few_steps('dpm_solver_pp_2m', respaced(schedules.linear(1000), 20, spacing))
    for spacing in ('time', 'log_snr')
  )
  assert in_log_snr < in_time / 4


# The formulas


@pytest.mark.usefixtures('float64')
def test_ddim_is_equation_12_and_16():
  """One step from t = 2 to 1, in alpha_bar as in the paper; eta does not change the noise drawn."""
  alpha_bar_s, alpha_bar_t = 0.8, 0.3
  log_snr = np.array([np.inf, np.log(4), np.log(3 / 7)])
  x_t = jnp.asarray(np.random.default_rng(0).normal(size=(500, 2)))
  x_0 = np.asarray(GAUSSIAN(x_t, jnp.full(500, log_snr[2])))
  eps = (x_t - np.sqrt(alpha_bar_t) * x_0) / np.sqrt(1 - alpha_bar_t)
  noise = {}
  for eta in (0.0, 0.5, 1.0):
    _, states = run(with_eta(sampling.ddim, eta), 500, GAUSSIAN, log_snr, x_T=x_t, trajectory=True)
    sigma = eta * np.sqrt((1 - alpha_bar_s) / (1 - alpha_bar_t) * (1 - alpha_bar_t / alpha_bar_s))
    mean = np.sqrt(alpha_bar_s) * x_0 + np.sqrt(1 - alpha_bar_s - sigma**2) * eps
    noise[eta] = np.asarray(states[1] - mean) / (sigma or 1)
  np.testing.assert_allclose(noise[0.0], 0, atol=1e-12)
  np.testing.assert_allclose(noise[0.5], noise[1.0], atol=1e-12)
  check_moments(noise[1.0], 0, 1)


@pytest.mark.usefixtures('float64')
@pytest.mark.parametrize('table', [schedules.cosine(50), schedules.linear_log_snr(7)])
def test_ddim_with_eta_1_is_ancestral_with_the_smaller_variance(table):
  """State by state, with the same keys."""
  x_T = jnp.asarray(np.random.default_rng(0).normal(size=(64, 2)))
  options = {'x_T': x_T, 'trajectory': True}
  _, left = run(with_eta(sampling.ddim, 1.0), 64, MIXTURE, table, **options)
  _, right = run(ancestral, 64, MIXTURE, table, **options)
  np.testing.assert_allclose(left, right, atol=1e-10)


def test_one_prediction_makes_every_solver_ddim():
  """The first and the last step are of first order in 2M, the last one in Heun."""
  one_step, two_steps = np.array([np.inf, -2.0]), np.array([np.inf, 2.0, -2.0])
  for name, table, eta in (
    ('dpm_solver_pp_2m', one_step, 0.0),
    ('dpm_solver_pp_2m', two_steps, 0.0),
    ('half_sde_2m', two_steps, 0.5),
    ('sde_2m', two_steps, 1.0),
    ('heun', one_step, 0.0),
  ):
    expected = run(with_eta(sampling.ddim, eta), 8, MIXTURE, table)
    np.testing.assert_allclose(run(SAMPLERS[name], 8, MIXTURE, table), expected, rtol=1e-5)


@pytest.mark.usefixtures('float64')
@pytest.mark.parametrize('is_sde', [False, True])
def test_dpm_solver_is_algorithm_2(is_sde):
  """Three unequal steps, as the paper writes them, for the ODE and the SDE; then the prediction at
  the last level. The noise is that of `ddim`."""
  log_snr = np.array([np.inf, 4.0, 1.0, 0.5, -3.0])
  x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2)))
  solver = with_eta(sampling.dpm_solver_pp_2m, float(is_sde))
  _, states = run(solver, 8, MIXTURE, log_snr, x_T=x, trajectory=True)
  _, noise_keys = random.split(keys_of(8))
  lam, (alpha, sigma) = log_snr / 2, scales(log_snr)
  before = h_before = None
  for i, t in enumerate((4, 3, 2)):
    x_0, h = MIXTURE(x, jnp.full(8, log_snr[t])), lam[t - 1] - lam[t]
    if before is None:
      d = x_0
    else:
      r = h_before / h
      d = (1 + 1 / (2 * r)) * x_0 - 1 / (2 * r) * before
    if is_sde:
      noise = random.normal(random.fold_in(noise_keys, t), x.shape, x.dtype)
      x = sigma[t - 1] / sigma[t] * np.exp(-h) * x + alpha[t - 1] * (1 - np.exp(-2 * h)) * d
      x += sigma[t - 1] * np.sqrt(1 - np.exp(-2 * h)) * noise
    else:
      x = sigma[t - 1] / sigma[t] * x - alpha[t - 1] * (np.exp(-h) - 1) * d
    before, h_before = x_0, h
    np.testing.assert_allclose(states[i + 1], x, rtol=1e-10)
  np.testing.assert_allclose(states[4], MIXTURE(x, jnp.full(8, log_snr[1])), rtol=1e-10)


@pytest.mark.parametrize('name', SAMPLERS)
def test_the_last_step_is_the_prediction(name):
  x_0, states, table = six_steps(name)
  np.testing.assert_allclose(x_0, MIXTURE(states[-2], jnp.full(8, table[1])), atol=1e-6)


def test_the_last_step_of_ancestral_is_a_mean():
  """Also where p(x_0 | x_1) has a variance of its own."""
  step, keys = exact_step(np.array([np.inf, 1.0, -4.0])), keys_of(8)
  x_0, states = sampling.ancestral(keys, (2,), step, 2, trajectory=True)
  last = step(states[1], jnp.ones(8, jnp.int32))
  assert np.all(last.log_var > -4)
  np.testing.assert_allclose(x_0, last.mean, rtol=1e-5)


def test_the_noise_scale_multiplies_the_noise_put_back():
  table, x_T = schedules.linear_log_snr(2), jnp.ones((16, 2))

  @jax.jit
  def states(keys, noise_scale):
    options = {'noise_scale': noise_scale, 'x_T': x_T, 'trajectory': True}
    return ancestral(keys, (2,), MIXTURE, table, **options)[1]

  none, once, twice = (states(keys_of(16), scale) for scale in (0.0, 1.0, 2.0))
  first = posterior_step(MIXTURE, table)(x_T, 2)
  np.testing.assert_allclose(none[1], first.mean, rtol=1e-6)
  np.testing.assert_allclose(twice[1] - none[1], 2 * (once[1] - none[1]), rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(none, states(keys_of(16, seed=1), 0.0))  # the keys do not matter
  assert states._cache_size() == 1


# Trajectories and the push


@pytest.mark.parametrize('name', SAMPLERS)
def test_trajectory(name):
  x_0, states, _ = six_steps(name)
  assert states.shape == (7, 8, 2)
  np.testing.assert_array_equal(states[-1], x_0)
  prior_keys, _ = random.split(keys_of(8))
  np.testing.assert_array_equal(states[0], random.normal(prior_keys, (8, 2)))


@pytest.mark.parametrize('name', [n for n in SAMPLERS if '2m' not in n])
def test_a_run_goes_on_from_any_level(name):
  """Not so DPM-Solver++(2M): it remembers its last prediction."""
  _, states, table = six_steps(name)
  t, options = 4, {'x_T': states[2], 'trajectory': True}
  _, rest = run(SAMPLERS[name], 8, MIXTURE, table[: t + 1], **options)
  np.testing.assert_allclose(rest, states[6 - t :], rtol=1e-5)


@pytest.mark.usefixtures('float64')
def test_a_push_is_forgotten_as_it_should_be():
  """A push of x_t moves x_0 by its size times a s^2 / (a^2 s^2 + b^2) in the exact chain, with the
  noise of the run that was not pushed; by s / sqrt(a^2 s^2 + b^2), more, in the probability flow.
  """
  T, t, push = 40, 20, 0.3
  table = schedules.linear_log_snr(T, FIRST, LAST)
  a, _ = scales(table[t])
  (_, std), keys, x = marginal(table[t]), keys_of(8), jnp.asarray(np.ones((8, 2)))
  chain = [sampling.ancestral(keys, (2,), exact_step(table), t, x_T=x_t) for x_t in (x, x + push)]
  np.testing.assert_allclose(chain[1] - chain[0], push * np.tile(a * STD**2 / std**2, (8, 1)))
  fine = schedules.linear_log_snr(400, FIRST, table[t])
  flow = [sampling.heun(keys, (2,), GAUSSIAN, fine, x_T=x_t) for x_t in (x, x + push)]
  np.testing.assert_allclose(flow[1] - flow[0], push * np.tile(STD / std, (8, 1)), rtol=2e-3)
  assert np.all(np.abs(chain[1] - chain[0]) < np.abs(flow[1] - flow[0]))


# Keys, compilation, numerics


@pytest.mark.parametrize('name', SAMPLERS)
def test_an_example_depends_on_its_own_key_alone(name):
  """In halves, and without the trajectory."""
  whole, _, table = six_steps(name)
  compiled = jax.jit(lambda keys: SAMPLERS[name](keys, (2,), MIXTURE, table))
  parts = np.concatenate([compiled(keys) for keys in np.split(keys_of(8), 2)])
  np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)
  assert np.all(compiled(keys_of(4, seed=1)) != whole[:4])


@pytest.mark.parametrize(('name', 'calls'), [(n, 2 if n == 'heun' else 1) for n in SAMPLERS])
def test_one_compile_and_one_copy_of_the_network_for_each_call_of_a_step(name, calls):
  traced = []

  def predict_x_0(x_t, log_snr_t):
    assert x_t.shape == (4, 2)
    assert log_snr_t.shape == ()
    traced.append(log_snr_t)
    return MIXTURE(x_t, log_snr_t)

  compiled = jax.jit(lambda keys, table: SAMPLERS[name](keys, (2,), predict_x_0, table))
  for seed in (0, 1):
    compiled(keys_of(4, seed), jnp.asarray(schedules.linear_log_snr(30), jnp.float32))
  assert len(traced) == calls


@pytest.mark.parametrize(
  'sampler',
  [
    ancestral,
    with_eta(sampling.ddim, 1.0),
    with_eta(sampling.dpm_solver_pp_2m, 1.0),
    *sampling.SOLVERS.values(),
  ],
)
def test_values_and_gradients_are_finite_at_4000_steps(sampler):
  """In float32: by x_T, by the table with its +inf, and by what the denoiser depends on."""

  def total(x_T, table, shift):
    def predict_x_0(x_t, log_snr_t):
      return MIXTURE(x_t, log_snr_t) + shift

    return jnp.sum(sampler(keys_of(4), (2,), predict_x_0, table, x_T=x_T))

  compiled = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))
  for schedule in (schedules.linear, schedules.cosine):
    x_T, table = random.normal(keys_of(4, seed=1), (4, 2)), schedule(4000)
    value, gradients = compiled(x_T, jnp.asarray(table, jnp.float32), 0.0)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(g)) for g in gradients)


@pytest.mark.usefixtures('float64')
@pytest.mark.parametrize('name', DETERMINISTIC)
def test_float32_follows_float64(name):
  """Through 4,000 steps: rounding does not add up."""
  x_T = np.random.default_rng(0).normal(size=(16, 2))
  compiled = jax.jit(lambda x_T, t: sampling.SOLVERS[name](keys_of(16), (2,), GAUSSIAN, t, x_T=x_T))
  for table in (schedules.linear(4000), schedules.cosine(4000)):
    single, double = (
      compiled(jnp.asarray(x_T, jnp.float32), table),
      compiled(jnp.asarray(x_T), table),
    )
    assert single.dtype == jnp.float32
    assert double.dtype == jnp.float64
    np.testing.assert_allclose(single, double, atol=1e-4)


# The table


@pytest.mark.parametrize('spacing', ['time', 'log_snr'])
@pytest.mark.parametrize('schedule', [schedules.linear, schedules.cosine, schedules.linear_log_snr])
@pytest.mark.parametrize('num_steps', [1, 2, 7, 50, 99, 100])
def test_respaced_tables_are_sub_schedules(schedule, num_steps, spacing):
  table = schedule(100)
  short = respaced(table, num_steps, spacing)
  assert short.shape == (num_steps + 1,)
  assert short.dtype == table.dtype
  assert np.isposinf(short[0])
  assert short[-1] == table[-1]
  assert num_steps == 1 or short[1] == table[1]
  assert np.all(np.diff(short) < 0)
  assert np.all(np.isin(short, table))
  if num_steps == 100:
    np.testing.assert_array_equal(short, table)


def test_respaced_levels_are_evenly_spaced():
  """In t within one (the ends 1 and T of Nichol & Dhariwal 2021); in log-SNR within a level."""
  table = schedules.cosine(1000)
  t = sampling.respace(table, 30)
  np.testing.assert_allclose(t[1:], np.linspace(1, 1000, 30), atol=0.5)
  fine = schedules.linear_log_snr(1000)
  short = respaced(fine, 30, 'log_snr')
  np.testing.assert_allclose(short[1:], np.linspace(13.3, -5, 30), atol=18.3 / 999)
  np.testing.assert_array_equal(sampling.respace(jnp.asarray(table, jnp.float32), 30), t)


# Errors


def test_errors_say_what_is_allowed():
  table, keys = schedules.cosine(10), keys_of(2)
  with pytest.raises(ValueError, match=r'num_steps is 11; a table of 10 steps .* 1\.\.10'):
    sampling.respace(table, 11)
  with pytest.raises(ValueError, match='num_steps is 0'):
    sampling.respace(table, 0)
  with pytest.raises(ValueError, match="spacing is 'cubic'; it is one of time, log_snr"):
    sampling.respace(table, 5, 'cubic')
  with pytest.raises(ValueError, match='T is 0'):
    sampling.ancestral(keys, (2,), exact_step(table), 0)
  with pytest.raises(ValueError, match=r'eta is 1\.5; it lies in \[0, 1\]'):
    sampling.ddim(keys, (2,), GAUSSIAN, table, 1.5)
  for solver in sampling.SOLVERS.values():
    with pytest.raises(ValueError, match='log_snr has no step'):
      solver(keys, (2,), GAUSSIAN, table[:1])
    with pytest.raises(ValueError, match=r'x_T has shape \(3, 2\); .* ask for \(2, 2\)'):
      solver(keys, (2,), GAUSSIAN, table, x_T=jnp.zeros((3, 2)))
