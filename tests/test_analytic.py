"""The exact answers against independent ones: numerical integration, Monte Carlo, autodiff, scipy.

Monte-Carlo checks are within 5 standard errors: a false-alarm rate of 6e-7 for each number.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
from scipy.special import expit, log_expit
from scipy.stats import multivariate_normal, norm
from sklearn.decomposition import PCA

from vaediff import analytic, bounds, forward_process, gaussian, schedules
from vaediff.analytic import GaussianData, Mixture

S, T = 1.2, -0.4  # log-SNRs of a step, s < t
FULL = GaussianData(np.array([0.4, -0.8]), np.array([[0.9, 0.5], [0.5, 0.6]]))
DIAGONAL = GaussianData(np.array([0.4, -0.8]), np.array([0.9, 0.6]))
BUMPS = Mixture(
  np.array([0.3, 0.5, 0.2]),
  np.array([[1.0, 0.5], [-1.0, 0.2], [0.3, -1.5]]),
  np.array([[[0.2, 0.1], [0.1, 0.3]], [[0.4, 0.0], [0.0, 0.1]], [[0.1, -0.05], [-0.05, 0.2]]]),
)
LINE = Mixture(np.array([0.35, 0.65]), np.array([[-0.9], [0.7]]), np.array([[[0.04]], [[0.09]]]))
X_T = np.array([[0.3, 0.1], [-1.2, 0.8], [2.0, -1.0]])
BOTH = pytest.mark.parametrize('data', [FULL, DIAGONAL], ids=['full', 'diagonal'])

# Compiled whole: op by op, compiling would take most of the time.
gaussian_marginal = jax.jit(analytic.gaussian_marginal)
gaussian_reverse_step = jax.jit(analytic.gaussian_reverse_step)
gaussian_denoiser = jax.jit(analytic.gaussian_denoiser)
gaussian_probability_flow = jax.jit(analytic.gaussian_probability_flow)
mixture_log_prob = jax.jit(analytic.mixture_log_prob)
mixture_score = jax.jit(analytic.mixture_score)
mixture_responsibilities = jax.jit(analytic.mixture_responsibilities)
mixture_reverse_step = jax.jit(analytic.mixture_reverse_step)
mixture_moments = jax.jit(analytic.mixture_moments)
mixture_denoiser = jax.jit(analytic.mixture_denoiser)
pca_marginal = jax.jit(analytic.pca_marginal)
pca_posterior_gap = jax.jit(analytic.pca_posterior_gap)
pca_posterior = jax.jit(analytic.pca_posterior)
pca_diagonal_posterior = jax.jit(analytic.pca_diagonal_posterior)
pca_elbo = jax.jit(analytic.pca_elbo)
expected_bound = jax.jit(analytic.gaussian_expected_bound)
log_prob = jax.jit(gaussian.log_prob)


@pytest.fixture(autouse=True)
def _float64():
  jax.config.update('jax_enable_x64', True)
  yield
  jax.config.update('jax_enable_x64', False)


def covariance_of(q):
  if isinstance(q, gaussian.Normal):
    return np.asarray(jax.vmap(jnp.diag)(jnp.exp(q.log_var)))
  return np.asarray(q.scale_tril @ jnp.swapaxes(q.scale_tril, -1, -2))


def matrix(data):
  return np.diag(data.covariance) if data.covariance.ndim == 1 else data.covariance


def density_at(data, x, log_snr):
  """log q(x_t) by scipy, for GaussianData or a Mixture."""
  mixture = data if isinstance(data, Mixture) else Mixture([1.0], [data.mean], [matrix(data)])
  a = expit(log_snr)
  dim = np.shape(mixture.means)[1]
  return np.logaddexp.reduce(
    [
      np.log(w)
      + multivariate_normal(np.sqrt(a) * m, a * np.asarray(c) + (1 - a) * np.eye(dim)).logpdf(x)
      for w, m, c in zip(*mixture, strict=True)
    ]
  )


def posterior_on_grid(data, x_t, s, t):
  """Mean and covariance of q(x_s | x_t) by Bayes' rule on a grid of x_s in two dimensions."""
  points = np.stack(np.meshgrid(*[np.linspace(-6, 6, 401)] * 2), -1).reshape(-1, 2)
  signal = np.exp(0.5 * (log_expit(t) - log_expit(s)))
  variance = expit(-t) * -np.expm1(t - s)
  log_weight = density_at(data, points, s) - np.sum((x_t - signal * points) ** 2, 1) / 2 / variance
  weight = np.exp(log_weight - log_weight.max())
  weight /= weight.sum()
  mean = weight @ points
  return mean, (weight[:, None] * (points - mean)).T @ (points - mean)


def sample(data: Mixture, n, seed=0):
  rng = np.random.default_rng(seed)
  k = rng.choice(len(data.weights), n, p=data.weights)
  roots = np.linalg.cholesky(data.covariances)
  return data.means[k] + np.einsum(
    'nij,nj->ni', roots[k], rng.normal(size=(n, data.means.shape[1]))
  )


def assert_mean_is(draws, expected):
  draws = np.asarray(draws)
  standard_error = draws.std(0) / np.sqrt(len(draws))
  assert np.all(np.abs(draws.mean(0) - expected) < 5 * standard_error)


# Gaussian data


@BOTH
@pytest.mark.parametrize('log_snr_t', [np.inf, 2.0, -3.0])
def test_marginal_density(data, log_snr_t):
  q = gaussian_marginal(data, log_snr_t)
  assert isinstance(q, gaussian.Normal) == (data is DIAGONAL)
  expected = density_at(data, X_T, log_snr_t)
  np.testing.assert_allclose(log_prob(q, X_T), expected, rtol=1e-12)


@BOTH
def test_entropy_of_the_data(data):
  entropy = gaussian.entropy(gaussian_marginal(data, np.inf))
  np.testing.assert_allclose(entropy, [multivariate_normal(cov=matrix(data)).entropy()])


@BOTH
@pytest.mark.parametrize('s', [np.inf, S])
def test_reverse_step_by_bayes_rule(data, s):
  q = gaussian_reverse_step(data, X_T, s, T)
  for i, x_t in enumerate(X_T):
    mean, covariance = posterior_on_grid(data, x_t, s, T)
    np.testing.assert_allclose(q.mean[i], mean, atol=1e-9)
    np.testing.assert_allclose(covariance_of(q)[i], covariance, atol=1e-9)


@BOTH
def test_reverse_step_with_a_time_for_each_example(data):
  s, t = np.array([S, 3.0, np.inf]), np.array([T, 2.0, -1.0])
  q = gaussian_reverse_step(data, X_T, s, t)
  for i in range(3):
    one = gaussian_reverse_step(data, X_T[i : i + 1], s[i], t[i])
    np.testing.assert_allclose(q.mean[i], one.mean[0], rtol=1e-12)
    np.testing.assert_allclose(covariance_of(q)[i], covariance_of(one)[0], rtol=1e-12)


@BOTH
def test_tiny_reverse_step_keeps_its_digits(data):
  """Var(x_s | x_t) is Var(x_t | x_s) to first order; subtracting variances would leave 4 digits."""
  q = gaussian_reverse_step(data, X_T, T + 1e-12, T)
  step = np.exp(forward_process.transition_log_var(T + 1e-12, T))
  np.testing.assert_allclose(covariance_of(q)[0] / step, np.eye(2), atol=1e-10)


@BOTH
def test_probability_flow_solves_its_ode(data):
  """dx / d log_snr = (1 - alpha_bar) / 2 (x + score), integrated by scipy."""

  def velocity(log_snr, x):
    q = gaussian_marginal(data, log_snr)
    score = -np.linalg.solve(covariance_of(q)[0], x - np.asarray(q.mean)[0])
    return 0.5 * expit(-log_snr) * (x + score)

  for start, end in [(T, S), (S, T), (-3.0, 4.0)]:
    expected = scipy.integrate.solve_ivp(velocity, (start, end), X_T[0], rtol=1e-10, atol=1e-12)
    ours = gaussian_probability_flow(data, X_T, start, end)
    np.testing.assert_allclose(ours[0], expected.y[:, -1], rtol=1e-7)


@BOTH
def test_probability_flow_carries_the_marginal_and_back(data):
  jacobian = jax.jacobian(lambda x: gaussian_probability_flow(data, x[None], T, S)[0])(X_T[0])
  q_s, q_t = (covariance_of(gaussian_marginal(data, log_snr))[0] for log_snr in (S, T))
  np.testing.assert_allclose(jacobian @ q_t @ jacobian.T, q_s, rtol=1e-12)
  x_s = gaussian_probability_flow(data, X_T, T, S)
  np.testing.assert_allclose(gaussian_probability_flow(data, x_s, S, T), X_T)
  x_0 = gaussian_probability_flow(data, X_T, T, np.inf)
  np.testing.assert_allclose(gaussian_probability_flow(data, x_0, np.inf, T), X_T)


# Gaussian data in the bound

TABLE = schedules.linear_log_snr(12, 8.0, -6.0)


def negative_bound(x_0, log_snr, reverse_step, seed=0):
  """-elbo [n] of the project's own bound, every step, and its terms."""
  keys = jax.random.split(jax.random.key(seed), len(x_0))

  def decoder_log_prob(x_1, reverse):
    return log_prob(reverse, x_0)

  table, num_times = jnp.asarray(log_snr), len(log_snr) - 2
  terms = jax.jit(
    lambda: bounds.diffusion_bound(keys, x_0, table, reverse_step, decoder_log_prob, num_times)
  )()
  return -terms['elbo'], terms


def bound_of(data, log_snr, reverse_step, n):
  """(negative bound - NLL) [n] on Gaussian data, and the bound's terms."""
  x_0 = jnp.asarray(np.random.default_rng(0).multivariate_normal(data.mean, matrix(data), n))
  negative, terms = negative_bound(x_0, log_snr, reverse_step)
  nll = -log_prob(gaussian_marginal(data, np.inf), x_0)
  return np.asarray(negative - nll), terms


def expected_gap(data, log_snr, log_var=None):
  """E[negative bound - NLL], exactly."""
  entropy = multivariate_normal(cov=matrix(data)).entropy()
  return -float(expected_bound(data, log_snr, log_var)['elbo']) - entropy


def prior_gap(data, log_snr):
  """KL(q(x_T) | N(0, I))."""
  q_T = gaussian_marginal(data, log_snr[-1])
  return float(gaussian.kl_to_standard_normal(q_T)[0])


def isotropic_model(data, log_snr, log_var):
  return analytic.denoising_reverse_model(
    lambda x_t, log_snr_t: gaussian_denoiser(data, x_t, log_snr_t), log_snr, log_var
  )


def fixed_small(log_snr, first=None):
  """The smaller choice of Ho et al. 2020, section 3.2, [T].

  first: its logarithm at t = 1, where it is 0; None: as at t = 2, like theirs.
  """
  small = np.array(forward_process.posterior_log_var(log_snr[:-1], log_snr[1:]))
  return np.append(small[1] if first is None else first, small[1:])


def fixed_large(log_snr):
  """Their larger choice, [T]."""
  return np.asarray(forward_process.transition_log_var(log_snr[:-1], log_snr[1:]))


@pytest.mark.parametrize(
  ('data', 'variance'),
  [(FULL, None), (FULL, fixed_small), (DIAGONAL, None), (DIAGONAL, fixed_large)],
)
def test_expected_terms_are_those_of_the_projects_bound(data, variance):
  if variance is None:
    log_var, model = None, analytic.gaussian_reverse_model(data, TABLE)
  else:
    log_var = variance(TABLE)
    model = isotropic_model(data, TABLE, log_var)
  _, terms = bound_of(data, TABLE, model, 4000)
  expected = expected_bound(data, TABLE, log_var)
  assert terms.keys() == expected.keys()
  for name, value in expected.items():
    assert_mean_is(terms[name], value)


@BOTH
def test_bound_exceeds_the_entropy_by_what_theory_says(data):
  """With q(x_{t-1} | x_t) itself by KL(q(x_T) | N(0, I)) exactly, with another variance by more."""
  for num_steps in (1, 30):
    log_snr = schedules.cosine(num_steps)
    exact = expected_gap(data, log_snr)
    np.testing.assert_allclose(exact, prior_gap(data, log_snr), atol=1e-12)
    for variance in (fixed_small, fixed_large) if num_steps > 1 else ():
      assert expected_gap(data, log_snr, variance(log_snr)) > exact


def wide_schedule(num_steps):
  """So wide that the prior's KL, and the decoder's term at variance 1 / SNR, leave 1e-9 nats."""
  return schedules.linear_log_snr(num_steps, 13.3, -25.0)


def gap_coefficient(data, log_snr):
  """The limit of (T - 1) x gap for the smaller variance and a table linear in t.

  The gap is the sum over t of KL(q(x_{t-1} | x_t) | model). In an axis of variance C, the ratio of
  the true variance to the smaller one is C_s noise_t^2 / (C_t noise_s^2) = 1 + u, u = h R
  sigmoid(log_snr + log C) + O(h^2) for a step h R = R / (T - 1); KL = u^2 / 4 + O(u^3). Summed,
  h R / 4 times the integral of sigmoid^2, which is softplus - sigmoid.
  """
  ends = log_snr[[1, -1]][:, None] + np.log(np.linalg.eigvalsh(matrix(data)))
  integral = -np.diff(-log_expit(-ends) - expit(ends), axis=0)
  return (log_snr[1] - log_snr[-1]) / 4 * integral.sum()


def test_gap_of_the_smaller_variance_falls_like_one_over_T():
  """Exponent -1 and its factor, by the expected bound: no sampling, so the fit is exact."""
  num_steps = np.array([512, 1024, 8192])
  gaps = []
  for n in num_steps:
    log_snr = wide_schedule(n)
    gaps.append(expected_gap(FULL, log_snr, fixed_small(log_snr, -log_snr[1])))
  exponents = np.diff(np.log(gaps)) / np.diff(np.log(num_steps - 1))
  np.testing.assert_allclose(exponents, -1, atol=0.025)
  assert abs(exponents[1] + 1) < abs(exponents[0] + 1) / 2
  coefficient = gap_coefficient(FULL, log_snr)
  np.testing.assert_allclose((num_steps[-1] - 1) * gaps[-1], coefficient, rtol=0.003)


def test_gap_of_the_projects_own_bound_falls_like_one_over_T():
  """Measured, at two T: the exponent's standard error is 0.025, its bias at these T 0.06."""
  num_steps, gaps = np.array([64, 512]), []
  for n in num_steps:
    log_snr = wide_schedule(n)
    log_var = fixed_small(log_snr, -log_snr[1])
    difference, _ = bound_of(FULL, log_snr, isotropic_model(FULL, log_snr, log_var), 4000)
    assert_mean_is(difference, expected_gap(FULL, log_snr, log_var))
    assert difference.mean() > 5 * difference.std() / np.sqrt(4000)
    gaps.append(difference.mean())
  exponent = np.diff(np.log(gaps)) / np.diff(np.log(num_steps - 1))
  np.testing.assert_allclose(exponent, -1, atol=0.2)


def test_smaller_variance_on_the_linear_schedule_never_closes_the_gap():
  """At the first steps SNR_{t-1} / SNR_t = t / (t - 1), however many steps there are.

  In nats per dimension each costs 1/2 (u - log(1 + u)), u = 1 / (t - 1): Euler's constant / 2 in
  all; and (1 - log 2) / 2 at t = 1, which takes the variance of t = 2. The larger choice, the
  optimum where the noise is small beside the data, closes the gap.
  """
  n = 1_000_000
  log_snr = schedules.linear(n, 0.1 / n, 20 / n)
  floor = prior_gap(FULL, log_snr)
  small = expected_gap(FULL, log_snr, fixed_small(log_snr))
  large = expected_gap(FULL, log_snr, fixed_large(log_snr))
  np.testing.assert_allclose((small - floor) / 2, (np.euler_gamma + 1 - np.log(2)) / 2, rtol=0.002)
  np.testing.assert_allclose(large - floor, 0, atol=2e-6)


# Mixtures


@pytest.mark.parametrize('log_snr_t', [np.inf, 2.0, -3.0])
def test_mixture_density_and_score(log_snr_t):
  ours = mixture_log_prob(BUMPS, X_T, log_snr_t)
  np.testing.assert_allclose(ours, density_at(BUMPS, X_T, log_snr_t), rtol=1e-12)
  score = mixture_score(BUMPS, X_T, log_snr_t)
  grad = jax.vmap(jax.grad(lambda x: mixture_log_prob(BUMPS, x[None], log_snr_t)[0]))(
    jnp.asarray(X_T)
  )
  np.testing.assert_allclose(score, grad, rtol=1e-10)


@pytest.mark.parametrize('s', [np.inf, S])
def test_mixture_reverse_step_by_bayes_rule(s):
  means, covariances = mixture_moments(mixture_reverse_step(BUMPS, X_T, s, T))
  for i, x_t in enumerate(X_T):
    mean, covariance = posterior_on_grid(BUMPS, x_t, s, T)
    np.testing.assert_allclose(means[i], mean, atol=1e-9)
    np.testing.assert_allclose(covariances[i], covariance, atol=1e-9)


def test_mixture_reverse_step_density_by_bayes_rule():
  """q(x_s | x_t) q(x_t) = q(x_t | x_s) q(x_s) at points, not only in its moments."""
  x_s = X_T[::-1]
  step = mixture_reverse_step(BUMPS, X_T, S, T)
  for i in range(3):
    reverse = Mixture(step.weights[i], step.means[i], step.covariances[0])
    left = density_at(reverse, x_s[i], np.inf) + density_at(BUMPS, X_T[i], T)
    forward = log_prob(forward_process.transition(x_s[i][None], S, T), X_T[i])[0]
    np.testing.assert_allclose(left, forward + density_at(BUMPS, x_s[i], S), rtol=1e-12)


def test_denoiser_is_tweedies_formula():
  """E[x_0 | x_t] = (x_t + noise^2 score) / signal (Efron 2011), at a time for each example."""
  t = np.array([2.0, -0.4, -3.0])
  signal, noise = np.sqrt(expit(t))[:, None], np.sqrt(expit(-t))[:, None]
  expected = (X_T + noise**2 * mixture_score(BUMPS, X_T, t)) / signal
  np.testing.assert_allclose(mixture_denoiser(BUMPS, X_T, t), expected, rtol=1e-10)


def test_responsibilities_are_bayes_rule():
  ours = mixture_responsibilities(BUMPS, X_T, T)
  for k in range(3):
    one = Mixture(*(array[k : k + 1] for array in BUMPS))
    joint = np.log(BUMPS.weights[k]) + density_at(one._replace(weights=[1.0]), X_T, T)
    np.testing.assert_allclose(ours[:, k], np.exp(joint - density_at(BUMPS, X_T, T)), rtol=1e-12)


def test_one_component_is_the_gaussian():
  one = Mixture(np.ones(1), FULL.mean[None], FULL.covariance[None])
  q_t, q_s = gaussian_marginal(FULL, T), gaussian_reverse_step(FULL, X_T, S, T)
  np.testing.assert_array_equal(mixture_responsibilities(one, X_T, T), np.ones((3, 1)))
  np.testing.assert_allclose(mixture_log_prob(one, X_T, T), log_prob(q_t, X_T))
  np.testing.assert_allclose(
    mixture_denoiser(one, X_T, T), gaussian_denoiser(FULL, X_T, T), rtol=1e-12
  )
  mean, covariance = mixture_moments(mixture_reverse_step(one, X_T, S, T))
  np.testing.assert_allclose(mean, q_s.mean, rtol=1e-12)
  np.testing.assert_allclose(np.broadcast_to(covariance, (3, 2, 2)), covariance_of(q_s), rtol=1e-12)


def test_mixture_in_the_projects_bound():
  """The optimal mean and variance: what the bound loses, found three ways.

  By the project's bound (Monte Carlo); as the sum of the expected terms less the entropy; and as
  KL(q(x_T) | N(0, 1)) + sum of E[KL(q(x_s | x_t) | model)], the last being the distance to the best
  Gaussian and that Gaussian's to the model: 1/2 E[log(variance / Var(x_s | x_t))].
  """
  log_snr = schedules.linear_log_snr(6, 7.0, -5.0)
  s, t = log_snr[:-1], log_snr[1:]
  mean_variance = np.array([line_expectation(posterior_variance(np.inf, b), b) for b in t])
  variance = np.asarray(analytic.optimal_reverse_variance(s, t, mean_variance))
  grid = np.linspace(-12, 12, 20_001)

  def integral(log_snr_t, function):
    log_q = density_at(LINE, grid[:, None], log_snr_t)
    return scipy.integrate.trapezoid(np.exp(log_q) * function(log_q), grid)

  entropy = integral(np.inf, lambda log_q: -log_q)
  kls = analytic.expected_kl(mean_variance[1:], 1, s[1:], t[1:], np.log(variance[1:]))
  prior = forward_process.marginal(jnp.asarray(grid)[:, None], t[-1])
  prior_kl = integral(np.inf, lambda _: np.asarray(gaussian.kl_to_standard_normal(prior)))
  decoder = 0.5 * np.log(2 * np.pi * np.e * variance[0])
  gap = decoder + kls.sum() + prior_kl - entropy

  shapes = sum(analytic.expected_reverse_step_kl(LINE, *step) for step in zip(s, t, strict=True))
  variances = sum(
    line_expectation(lambda x, a=a, b=b, v=v: 0.5 * np.log(v / posterior_variance(a, b)(x)), b)
    for a, b, v in zip(s, t, variance, strict=True)
  )
  mismatch = integral(t[-1], lambda log_q: log_q - norm.logpdf(grid))
  np.testing.assert_allclose(gap, mismatch + shapes + variances, rtol=1e-8)

  def denoiser(x_t, log_snr_t):
    return mixture_denoiser(LINE, x_t, log_snr_t)

  model = analytic.denoising_reverse_model(denoiser, log_snr, np.log(variance))
  x_0 = jnp.asarray(sample(LINE, 10_000))
  nll = -mixture_log_prob(LINE, x_0, np.inf)
  difference = np.asarray(negative_bound(x_0, log_snr, model)[0] - nll)
  assert_mean_is(difference, gap)
  assert difference.mean() > 5 * difference.std() / 100


# The optimal variance of the reverse step


def line_expectation(function, log_snr_t):
  """E[function(x_t)] over q(x_t) for LINE, on a grid."""
  x_t = np.linspace(-12, 12, 4001)[:, None]
  density = np.exp(density_at(LINE, x_t, log_snr_t))
  return float(np.sum(density * np.asarray(function(x_t))) / np.sum(density))


@jax.jit
def line_posterior_variance(x_t, s, t):
  """Var(x_s | x_t) for LINE."""
  return mixture_moments(mixture_reverse_step(LINE, x_t, s, t))[1][:, 0, 0]


def posterior_variance(s, t):
  return lambda x_t: line_posterior_variance(x_t, s, t)


@pytest.mark.parametrize('s', [np.inf, S])
@BOTH
def test_optimal_variance_for_gaussian_data(data, s):
  """The mean eigenvalue of the exact reverse covariance."""
  posterior = covariance_of(gaussian_reverse_step(data, X_T, np.inf, T))[0]
  reverse = covariance_of(gaussian_reverse_step(data, X_T, s, T))[0]
  optimal = analytic.optimal_reverse_variance(s, T, np.trace(posterior) / 2)
  np.testing.assert_allclose(optimal, np.trace(reverse) / 2, rtol=1e-12)


def test_optimal_variance_for_a_mixture():
  mean_variance = line_expectation(posterior_variance(np.inf, T), T)
  optimal = analytic.optimal_reverse_variance(S, T, mean_variance)
  np.testing.assert_allclose(optimal, line_expectation(posterior_variance(S, T), T), rtol=1e-10)
  best = scipy.optimize.minimize_scalar(
    lambda log_var: float(analytic.expected_kl(mean_variance, 1, S, T, log_var)), (-3, 0)
  )
  np.testing.assert_allclose(np.log(optimal), best.x, atol=1e-6)


def test_optimal_variance_is_what_samples_have():
  """E|x_s - E[x_s | x_t]|^2 / D, by Monte Carlo."""
  x_0 = jnp.asarray(sample(BUMPS, 20_000))
  s_key, t_key = jax.random.split(jax.random.key(2))
  x_s = gaussian.sample(s_key, forward_process.marginal(x_0, S))
  x_t = gaussian.sample(t_key, forward_process.transition(x_s, S, T))
  _, covariance = mixture_moments(mixture_reverse_step(BUMPS, x_t, np.inf, T))
  per_example = analytic.optimal_reverse_variance(S, T, jnp.trace(covariance, axis1=1, axis2=2) / 2)
  mean, _ = mixture_moments(mixture_reverse_step(BUMPS, x_t, S, T))
  squared_error = jnp.mean(jnp.square(x_s - mean), 1)
  assert_mean_is(squared_error - per_example, 0)
  assert jnp.std(squared_error - per_example) < 2 * jnp.mean(per_example)  # else it cannot fail


def test_optimal_variance_as_the_paper_writes_it():
  """Bao et al. 2022, theorem 1, in its own symbols, with the score by quadrature."""
  squared_score = line_expectation(lambda x: mixture_score(LINE, x, T)[:, 0] ** 2, T)
  alpha_bar_s, alpha_bar_t = expit(S), expit(T)
  alpha, beta_bar_s, beta_bar_t = alpha_bar_t / alpha_bar_s, 1 - alpha_bar_s, 1 - alpha_bar_t
  lambda_squared = beta_bar_s / beta_bar_t * (1 - alpha)
  difference = np.sqrt(beta_bar_t / alpha) - np.sqrt(beta_bar_s - lambda_squared)
  paper = lambda_squared + difference**2 * (1 - beta_bar_t * squared_score)
  mean_variance = analytic.posterior_variance_from_score(squared_score, T)
  np.testing.assert_allclose(analytic.optimal_reverse_variance(S, T, mean_variance), paper)
  np.testing.assert_allclose(mean_variance, line_expectation(posterior_variance(np.inf, T), T))


def test_expected_kl_for_a_mixture():
  """E[KL(q(x_s | x_t, x_0) | N(E[x_s | x_t], exp(log_var)))], by Monte Carlo over (x_0, x_t)."""
  log_var = -0.9
  x_0 = jnp.asarray(sample(LINE, 20_000))
  x_t = gaussian.sample(jax.random.key(3), forward_process.marginal(x_0, T))
  mean, _ = mixture_moments(mixture_reverse_step(LINE, x_t, S, T))
  model = gaussian.Normal(mean, jnp.full_like(mean, log_var))
  kl = gaussian.kl(forward_process.posterior(x_0, x_t, S, T), model)
  mean_variance = line_expectation(posterior_variance(np.inf, T), T)
  assert_mean_is(kl, float(analytic.expected_kl(mean_variance, 1, S, T, log_var)))
  small = forward_process.posterior_log_var(S, T)
  np.testing.assert_allclose(
    analytic.expected_kl(mean_variance, 1, S, T, small),
    0.5 * (np.exp(S) - np.exp(T)) * mean_variance,
  )


# Probabilistic PCA


def pca_data(n=400, dim=5, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) + rng.normal(size=dim)


def correlated_model():
  rng = np.random.default_rng(1)
  return analytic.ProbabilisticPCA(
    jnp.asarray(rng.normal(size=(5, 3)) + 1.0), jnp.asarray(rng.normal(size=5)), jnp.asarray(0.7)
  )


def maximum_likelihood(x, latent_dim):
  return analytic.pca_maximum_likelihood(x.mean(0), np.cov(x.T, bias=True), latent_dim)


@jax.jit
def pca_log_likelihood(model, x):
  return jnp.mean(log_prob(pca_marginal(model), x))


def test_marginal_is_scikit_learns():
  """Its PCA divides the covariance by N - 1."""
  x = pca_data()
  model = analytic.pca_maximum_likelihood(x.mean(0), np.cov(x.T), 2)
  ours = log_prob(pca_marginal(model), x)
  np.testing.assert_allclose(ours, PCA(2, svd_solver='full').fit(x).score_samples(x), rtol=1e-10)


@pytest.mark.parametrize('latent_dim', [1, 3, 4])
def test_maximum_likelihood_is_one(latent_dim):
  """No gradient, none better near by, and the value of Tipping & Bishop 1999, appendix A."""
  x = pca_data()
  model = maximum_likelihood(x, latent_dim)
  best = pca_log_likelihood(model, x)
  for gradient in jax.jit(jax.grad(pca_log_likelihood))(model, x):
    np.testing.assert_allclose(gradient, 0, atol=1e-10)
  eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
  expected = -0.5 * (
    np.log(eigenvalues[:latent_dim]).sum()
    + (5 - latent_dim) * np.log(model.noise_variance)
    + 5 * np.log(2 * np.pi)
    + 5
  )
  np.testing.assert_allclose(best, expected)
  rng = np.random.default_rng(0)
  for scale in (0.01, 0.3):
    other = analytic.ProbabilisticPCA(
      model.loadings + scale * rng.normal(size=model.loadings.shape),
      model.mean + scale * rng.normal(size=5),
      model.noise_variance * np.exp(scale * rng.normal()),
    )
    assert pca_log_likelihood(other, x) < best


def test_pca_refuses_a_latent_dim_without_noise():
  with pytest.raises(ValueError, match=r'latent_dim is 5; with 5-dimensional data it lies in 1..4'):
    maximum_likelihood(pca_data(), 5)


def test_posterior_by_bayes_rule():
  model, x = correlated_model(), pca_data(n=6)
  z = np.random.default_rng(2).normal(size=(6, 3))
  likelihood = gaussian.Normal(z @ model.loadings.T + model.mean, jnp.log(model.noise_variance))
  joint = log_prob(likelihood, x) - 0.5 * np.sum(z**2 + np.log(2 * np.pi), 1)
  posterior = log_prob(pca_posterior(model, x), z)
  np.testing.assert_allclose(joint - posterior, log_prob(pca_marginal(model), x))


def test_elbo_of_the_two_posteriors_and_the_gap_between_them():
  model, x = correlated_model(), pca_data(n=6)
  full, diagonal = pca_posterior(model, x), pca_diagonal_posterior(model, x)
  log_likelihood = log_prob(pca_marginal(model), x)
  gap = pca_posterior_gap(model)
  assert gap > 0.1
  np.testing.assert_allclose(pca_elbo(model, x, full), log_likelihood)
  np.testing.assert_allclose(pca_elbo(model, x, diagonal), log_likelihood - gap)
  np.testing.assert_allclose(gaussian.kl(diagonal, full), gap)


def test_no_diagonal_posterior_is_better():
  """scipy's optimiser, from N(0, I), ends at the closed form."""
  model, x = correlated_model(), pca_data(n=1)

  def loss(vector):
    mean, log_var = jnp.split(vector, 2)
    return -pca_elbo(model, x, gaussian.Normal(mean[None], log_var[None]))[0]

  best = scipy.optimize.minimize(
    jax.jit(jax.value_and_grad(loss)), np.zeros(6), jac=True, tol=1e-10
  )
  q = pca_diagonal_posterior(model, x)
  np.testing.assert_allclose(best.x, np.concatenate([q.mean[0], q.log_var[0]]), atol=1e-5)


def test_no_gap_at_maximum_likelihood():
  x = pca_data()
  model = maximum_likelihood(x, 3)
  np.testing.assert_allclose(pca_posterior_gap(model), 0, atol=1e-12)
  elbo = pca_elbo(model, x, pca_diagonal_posterior(model, x))
  np.testing.assert_allclose(jnp.mean(elbo), pca_log_likelihood(model, x))


@pytest.mark.parametrize('kind', ['full', 'diagonal'])
def test_elbo_of_any_posterior_by_monte_carlo(kind):
  model, x = correlated_model(), pca_data(n=1)
  rng = np.random.default_rng(4)
  mean, root = jnp.asarray(rng.normal(size=(1, 3))), jnp.asarray(0.3 * np.tri(3) + 0.2 * np.eye(3))
  if kind == 'full':
    q = gaussian.MultivariateNormal(mean, root[None])
    z = mean + rng.normal(size=(40_000, 3)) @ root.T
  else:
    q = gaussian.Normal(mean, jnp.log(jnp.diag(root))[None])
    z = mean + rng.normal(size=(40_000, 3)) * jnp.sqrt(jnp.diag(root))
  likelihood = gaussian.Normal(z @ model.loadings.T + model.mean, jnp.log(model.noise_variance))
  prior = -0.5 * jnp.sum(z**2 + gaussian.LOG_2PI, 1)
  draws = log_prob(likelihood, x) + prior - log_prob(q, z)
  assert_mean_is(draws, float(pca_elbo(model, x, q)[0]))


# Key idea 1


@pytest.mark.parametrize('x_t', [-0.7, 0.05, 1.1])
def test_reverse_step_kl_by_bayes_rule(x_t):
  """q(x_s | x_t) as q(x_s) q(x_t | x_s) / q(x_t) on a grid of x_s, its moments, its divergence."""
  grid = np.linspace(-8, 8, 200_001)
  signal = np.sqrt(expit(T) / expit(S))
  log_p = density_at(LINE, grid[:, None], S)
  log_p += norm(signal * grid, np.sqrt(1 - signal**2)).logpdf(x_t)
  log_p -= np.log(scipy.integrate.trapezoid(np.exp(log_p), grid))
  p = np.exp(log_p)
  mean = scipy.integrate.trapezoid(p * grid, grid)
  variance = scipy.integrate.trapezoid(p * (grid - mean) ** 2, grid)
  best = norm(mean, np.sqrt(variance))
  expected = scipy.integrate.trapezoid(p * (log_p - best.logpdf(grid)), grid)
  np.testing.assert_allclose(
    analytic.reverse_step_kl(LINE, [x_t], S, T), [expected], rtol=1e-9, atol=1e-13
  )


def test_expected_reverse_step_kl_is_the_average():
  x_t = np.linspace(-8, 8, 801)
  density = np.exp(density_at(LINE, x_t[:, None], T))
  average = np.sum(density * analytic.reverse_step_kl(LINE, x_t, S, T)) / density.sum()
  np.testing.assert_allclose(analytic.expected_reverse_step_kl(LINE, S, T), average, rtol=1e-9)


def test_reverse_step_kl_is_that_of_the_jax_mixture():
  """The NumPy copy of the reverse step agrees with `mixture_reverse_step`: density at points."""
  step = mixture_reverse_step(LINE, np.array([[0.05]]), np.inf, T)
  one = Mixture(step.weights[0], step.means[0], step.covariances[0])
  grid = np.linspace(-4, 4, 40_001)
  mean, covariance = mixture_moments(step)
  best = norm(float(mean[0, 0]), float(np.sqrt(covariance[0, 0, 0])))
  log_p = density_at(one, grid[:, None], np.inf)
  expected = scipy.integrate.trapezoid(np.exp(log_p) * (log_p - best.logpdf(grid)), grid)
  np.testing.assert_allclose(
    analytic.reverse_step_kl(LINE, [0.05], np.inf, T), [expected], rtol=1e-9
  )


def test_small_steps_are_nearly_gaussian():
  """A step of size h has a skewness of order h^(3/2): its KL is of order h^3, a chain's T^-2."""
  steps = 2.0 ** -np.arange(-2, 6)
  kl = np.array([analytic.expected_reverse_step_kl(LINE, T + h, T) for h in steps])
  assert np.all(np.diff(kl) < 0)
  exponents = np.diff(np.log(kl)) / np.diff(np.log(steps))
  np.testing.assert_allclose(exponents[-1], 3, atol=0.05)
  chains = [
    sum(analytic.expected_reverse_step_kl(LINE, s, t) for t, s in itertools.pairwise(times))
    for times in (np.linspace(T, S, 9), np.linspace(T, S, 17))
  ]
  np.testing.assert_allclose(np.log2(chains[1] / chains[0]), -2, atol=0.15)


def test_gaussian_data_have_gaussian_steps_of_every_size():
  one = Mixture(np.ones(1), np.array([[0.4]]), np.array([[[0.3]]]))
  for s in (T + 1e-3, S, np.inf):
    assert abs(analytic.expected_reverse_step_kl(one, s, T)) < 1e-13


def test_quadrature_refuses():
  with pytest.raises(ValueError, match='data have 2 dimensions; the quadrature is for one'):
    analytic.reverse_step_kl(BUMPS, [0.0], S, T)
  with pytest.raises(ValueError, match=r'log_snr_s -0.4 <= log_snr_t 1.2'):
    analytic.expected_reverse_step_kl(LINE, T, S)


# Precision


def test_float32_in_float32_out():
  """Also with x64 on, where one stray constant would promote."""

  def float32(tree):
    return jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), tree)

  x, full, diagonal, bumps, model = float32((X_T, FULL, DIAGONAL, BUMPS, correlated_model()))
  table, log_var, x_5 = float32((TABLE, fixed_small(TABLE), pca_data(n=3)))
  t = jnp.array([1, 2, 3])

  def outputs():
    yield from (
      mixture_log_prob(bumps, x, T),
      mixture_score(bumps, x, T),
      mixture_denoiser(bumps, x, T),
      analytic.pca_maximum_likelihood(full.mean, full.covariance, 1),
      pca_posterior(model, x_5),
      pca_diagonal_posterior(model, x_5),
      pca_elbo(model, x_5, pca_posterior(model, x_5)),
      log_prob(pca_marginal(model), x_5),
      analytic.posterior_variance_from_score(x[0, 0], table[3]),
      analytic.optimal_reverse_variance(table[2], table[3], x[0, 0]),
    )
    for data in (full, diagonal):
      yield from (
        gaussian_marginal(data, S),
        gaussian_reverse_step(data, x, S, T),
        gaussian_denoiser(data, x, T),
        gaussian_probability_flow(data, x, T, S),
        analytic.gaussian_reverse_model(data, table)(x, t),
        isotropic_model(data, table, log_var)(x, t),
        analytic.gaussian_expected_bound(data, table),
        analytic.gaussian_expected_bound(data, table, log_var),
      )

  traced = jax.eval_shape(lambda: list(outputs()))
  assert {str(leaf.dtype) for leaf in jax.tree.leaves(traced)} == {'float32'}
