"""Latent-space diagnostics against encoders of which the answers are known in closed form.

Gaussian: x ~ N(0, I), q(z | x) = N(A x + b, S), so that q(z) = N(b, A A^T + S). Box: x uniform on
the cube, q(z | x) a box of widths w from (1 - w) x on, so that the density of q(z) is a trapezoid
in each dimension. Statistical checks are within 5 standard errors: false alarm rate 6e-7 for each
number.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaediff import latents, random
from vaediff.evaluation import codes
from vaediff.gaussian import MultivariateNormal, Normal
from vaediff.uniform import Box

D, N = 3, 2000
FEW = 100  # one number for all small tests: each new shape is compiled anew
SHIFT = np.array([0.5, 0.0, -0.3])
WIDTH = np.array([0.1, 0.4, 0.9])
MATRIX = np.array([[0.9, 0.2, 0.0], [-0.3, 0.5, 0.1], [0.0, 0.2, 0.05]])
SCALE_TRIL = np.array([[0.3, 0.0, 0.0], [0.2, 0.5, 0.0], [-0.4, 0.1, 0.9]])
STD = np.array([0.3, 0.5, 1.0])
LATENTS = {'diagonal': latents.DIAGONAL, 'full': latents.FULL, 'box': latents.BOX}
FAMILIES = pytest.mark.parametrize('family', LATENTS)


def rows(value, n):
  return jnp.broadcast_to(jnp.asarray(value, jnp.float32), (n, *np.shape(value)))


def encode(family, n=N, seed=0):
  """q of n examples, and a draw of each."""
  rng = np.random.default_rng(seed)
  if family == 'box':
    lower = jnp.asarray((1 - WIDTH) * rng.uniform(size=(n, D)), jnp.float32)
    q = Box(lower, rows(np.log(WIDTH), n))
  else:
    mean = jnp.asarray(rng.normal(size=(n, D)) @ MATRIX.T + SHIFT, jnp.float32)
    q = {
      'diagonal': lambda: Normal(mean, rows(2 * np.log(STD), n)),
      'full': lambda: MultivariateNormal(mean, rows(SCALE_TRIL, n)),
    }[family]()
  return q, LATENTS[family].sample(keys(n, seed), q)


def keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


def noise_covariance(family):
  return np.diag(STD**2) if family == 'diagonal' else SCALE_TRIL @ SCALE_TRIL.T


def covariance(family):
  """Of q(z), Gaussian families."""
  return MATRIX @ MATRIX.T + noise_covariance(family)


def exact_split(family):
  """I(x; z) and KL(q(z) | p(z))."""
  if family == 'box':
    # The convolution of U[0, 1 - w] and U[0, w], a being the longer of the two and b the other.
    a, b = np.maximum(WIDTH, 1 - WIDTH), np.minimum(WIDTH, 1 - WIDTH)
    entropy = np.log(a) + b / (2 * a)
    return np.sum(entropy - np.log(WIDTH)), -np.sum(entropy)
  _, log_det = np.linalg.slogdet(covariance(family))
  information = 0.5 * (log_det - np.linalg.slogdet(noise_covariance(family))[1])
  return information, exact_moment_kl(SHIFT, covariance(family))


def exact_moment_kl(mean, covariance):
  _, log_det = np.linalg.slogdet(covariance)
  return 0.5 * (np.trace(covariance) + mean @ mean - len(mean) - log_det)


def assert_near(estimate, truth, bias=0.0):
  value, stderr = estimate
  assert np.all(np.abs(value - truth) < 5 * stderr + bias)


def mean_kl(latent, q):
  return float(np.mean(np.asarray(latent.kl(q), np.float64)))


def mean_of(term):
  return term.mean(), term.std(ddof=1) / np.sqrt(len(term))


# The split of the KL


@FAMILIES
def test_split_is_exact_for_linear_encoders(family):
  """The bias of order 1 / N, that of the own posterior in the sum, is below 0.01 here."""
  information, marginal_kl = exact_split(family)
  q, z = encode(family)
  terms = codes.split_kl(LATENTS[family], q, z)
  assert_near(mean_of(terms['kl']), information + marginal_kl, bias=1e-6)
  assert_near(mean_of(terms['mutual_information']), information, bias=0.01)
  assert_near(mean_of(terms['marginal_kl']), marginal_kl, bias=0.01)
  assert mean_of(terms['mutual_information'])[1] < 0.05 * information  # else nothing could fail
  np.testing.assert_allclose(
    terms['kl'], terms['mutual_information'] + terms['marginal_kl'], rtol=1e-12
  )


@FAMILIES
def test_marginal_kl_is_that_of_the_aggregate_posterior(family):
  """By its definition, E_{q(z)}[log q(z) - log p(z)], on the same draws."""
  latent, (q, z) = LATENTS[family], encode(family)
  log_q, _ = codes.log_aggregate_posterior(latent, q, z)
  direct = np.asarray(log_q - latent.prior_log_prob(z), np.float64)
  difference = direct - codes.split_kl(latent, q, z)['marginal_kl']
  assert_near(mean_of(difference), 0, bias=1e-5)


@FAMILIES
def test_aggregate_posterior_is_the_average_density(family):
  """One by one, with and without the own posterior."""
  latent, (q, z) = LATENTS[family], encode(family, FEW)
  everyone, others = codes.log_aggregate_posterior(latent, q, z)
  density = np.array([np.exp(latent.log_prob(q, z[i : i + 1])) for i in range(FEW)])
  np.testing.assert_allclose(np.exp(everyone), density.mean(1), rtol=1e-5)
  np.fill_diagonal(density, 0)
  np.testing.assert_allclose(np.exp(others), density.sum(1) / (FEW - 1), rtol=1e-5)


@FAMILIES
@pytest.mark.parametrize('block_size', [1, 7, 100, 128])
def test_block_size_does_not_matter(family, block_size):
  latent, (q, z) = LATENTS[family], encode(family, FEW)
  whole = codes.log_aggregate_posterior(latent, q, z, 25)
  parts = codes.log_aggregate_posterior(latent, q, z, block_size)
  np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-5)


def test_standard_error_and_the_two_bounds():
  """500 splits of 100 examples: their spread against the standard error over the examples of one,
  to 16% (5 standard errors), and the truth between the averages of the two estimates.
  """
  latent, (information, _) = latents.DIAGONAL, exact_split('diagonal')
  q, _ = encode('diagonal', FEW)

  @jax.jit
  @jax.vmap
  def terms(key):
    x_key, z_key = random.split(key)
    drawn = q._replace(mean=jax.random.normal(x_key, (FEW, D)) @ MATRIX.T + SHIFT)
    z = latent.sample(z_key, drawn)
    everyone, others = codes.log_aggregate_posterior(latent, drawn, z)
    own = latent.log_prob(drawn, z)
    return own - everyone, own - others

  everyone, others = (np.asarray(term, np.float64) for term in terms(keys(500)))
  averages = everyone.mean(1)
  stderr = np.sqrt(np.mean(everyone.var(1, ddof=1)) / FEW)
  assert abs(averages.std(ddof=1) / stderr - 1) < 5 / np.sqrt(2 * 500)
  low, low_stderr = mean_of(averages)
  high, high_stderr = mean_of(others.mean(1))
  assert low + 5 * low_stderr < information < high - 5 * high_stderr


@FAMILIES
def test_collapsed_posteriors_carry_nothing(family):
  latent, (q, _) = LATENTS[family], encode(family, FEW)
  q = jax.tree.map(lambda array: rows(array[0], FEW), q)
  z = latent.sample(keys(FEW), q)
  terms = codes.split_kl(latent, q, z)
  np.testing.assert_allclose(terms['mutual_information'], 0, atol=1e-5)
  np.testing.assert_allclose(terms['mutual_information_left_out'], 0, atol=1e-5)
  np.testing.assert_allclose(codes.unit_variances(latent, q), 0, atol=1e-12)
  assert codes.active_units(latent, q) == (0, 0.0)


@FAMILIES
def test_posteriors_far_apart_tell_all_examples_apart(family):
  """The information is log N, with no spread; the upper bound is then the KL."""
  q, _ = encode(family, FEW)
  place = np.linspace(0, 1, FEW, endpoint=False)[:, None] * np.ones(D)
  if family == 'box':
    q = Box(jnp.asarray(place, jnp.float32), rows(np.full(D, np.log(0.005)), FEW))
  else:
    q = q._replace(mean=jnp.asarray(10_000 * place, jnp.float32))
  latent = LATENTS[family]
  summary = codes.summarize(latent, keys(FEW), q)
  assert summary['mutual_information']['value'] == pytest.approx(np.log(FEW), rel=1e-5)
  assert summary['mutual_information']['stderr'] < 1e-6
  assert summary['active_units'] == {'value': D, 'stderr': 0.0, 'unit': 'units'}
  if family == 'box':  # no other box has the code: the leave-one-out information is infinite
    upper = summary['mutual_information_upper']
    assert upper['value'] == pytest.approx(mean_kl(latent, q), rel=1e-6)
    assert upper['stderr'] < 1e-6


# Units


@FAMILIES
def test_unit_variances(family):
  q, _ = encode(family)
  if family == 'box':
    truth = (1 - WIDTH) ** 2  # of the prior's 1 / 12
  else:
    truth = np.sum(MATRIX**2, axis=1)
  value, stderr = codes.unit_variances(LATENTS[family], q)
  assert_near((value, stderr), truth)
  # (E[u^4] - 1) / N for a standardised u: 2 for a Gaussian, 0.8 for a uniform one.
  excess = 0.8 if family == 'box' else 2
  np.testing.assert_allclose(stderr, truth * np.sqrt(excess / N), rtol=0.15)
  assert codes.active_units(LATENTS[family], q)[0] == np.sum(truth > 0.01)


def test_active_units_with_a_standard_error():
  """16 dimensions at the threshold are active or not as the sample has it: sqrt(16) / 2 of them."""
  rng = np.random.default_rng(0)
  std = np.array([0.1] * 16 + [1.0, 0.01])
  counts = []
  for _ in range(100):
    q = Normal(std * rng.normal(size=(300, 18)), np.zeros((300, 18)))
    counts.append(codes.active_units(latents.DIAGONAL, q))
  count, stderr = np.array(counts).T
  assert abs(count.mean() - (1 + 8)) < 5 * 2 / np.sqrt(100) + 0.3  # the median is below the mean
  # Resampling finds less doubt than there is where the sample has decided: at most half.
  assert 0.5 < np.mean(stderr) / count.std() < 1.1
  assert codes.active_units(latents.DIAGONAL, Normal(q.mean[:, 16:], q.log_var[:, 16:])) == (1, 0)
  assert codes.active_units(latents.DIAGONAL, q, threshold=2.0)[0] == 0


@FAMILIES
def test_groups_sum_to_the_kl(family):
  latent, (q, _) = LATENTS[family], encode(family)
  value, stderr = codes.kl_per_group(latent, q)
  assert value.shape == stderr.shape == ((1,) if family == 'full' else (D,))
  assert value.sum() == pytest.approx(mean_kl(latent, q), rel=1e-5)


# Moments of the aggregate posterior


@FAMILIES
def test_moments(family):
  q, z = encode(family)
  if family == 'box':
    # (1 - w) u + w u', both uniform, against a variance of 1 / 12.
    shift, eigenvalues = np.zeros(D), np.sort((1 - WIDTH) ** 2 + WIDTH**2)[::-1]
  else:
    shift, eigenvalues = SHIFT, np.linalg.eigvalsh(covariance(family))[::-1]
  mean, spectrum = codes.moments(q, z)
  assert_near(mean, shift)
  assert_near(spectrum, eigenvalues, bias=0.01)  # order 1 / N
  assert_near(codes.moment_kl(q, z), exact_moment_kl(shift, np.diag(eigenvalues)))
  assert mean[1].shape == spectrum[1].shape == (D,)
  if family != 'box':
    np.testing.assert_allclose(spectrum[1], eigenvalues * np.sqrt(2 / N), rtol=0.15)


def test_moment_kl_has_neither_bias_nor_a_wrong_error():
  """400 samples of 100: the KL put in would be too large by 0.06, 10 standard errors."""
  rng, truth = np.random.default_rng(0), exact_moment_kl(SHIFT, covariance('full'))
  scale = np.linalg.cholesky(covariance('full'))
  draws = (SHIFT + rng.normal(size=(100, D)) @ scale.T for _ in range(400))
  value, stderr = np.array([codes.moment_kl(Normal(z, z), z) for z in draws]).T
  assert_near(mean_of(value), truth)
  assert abs(value.std() / np.sqrt(np.mean(stderr**2)) - 1) < 5 / np.sqrt(2 * 400)


def test_moment_kl_near_the_prior():
  """10 dimensions, 60 draws of the prior: put in, the KL would be over 0.5, and not 0."""
  rng = np.random.default_rng(0)
  value = np.array([codes.moment_kl(None, rng.normal(size=(60, 10)))[0] for _ in range(400)])
  assert_near(mean_of(value), 0, bias=0.02)  # the jackknife leaves order 1 / N^2


def test_moment_kl_by_leaving_out_one_by_one():
  z, n = np.random.default_rng(0).normal(size=(8, 2)) + 0.3, 8

  def plain(z):
    return exact_moment_kl(z.mean(0), np.cov(z, rowvar=False))

  without = np.array([plain(np.delete(z, i, axis=0)) for i in range(n)])
  value, stderr = codes.moment_kl(None, z)
  assert value == pytest.approx(n * plain(z) - (n - 1) * without.mean())
  assert stderr == pytest.approx(
    np.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2)), 1e-4
  )


# The summary


@FAMILIES
def test_summary(family):
  q, _ = encode(family, FEW)
  latent, summary = LATENTS[family], codes.summarize(LATENTS[family], keys(FEW), q)
  units = {name: entry['unit'] for name, entry in summary.items()}
  nats = ('kl', 'mutual_information', 'marginal_kl', 'mutual_information_upper', 'moment_kl')
  assert units == {'active_units': 'units', **dict.fromkeys(nats, 'nats')}
  value = {name: entry['value'] for name, entry in summary.items()}
  assert all(type(entry[key]) is float for entry in summary.values() for key in ('value', 'stderr'))
  assert value['kl'] == pytest.approx(mean_kl(latent, q), rel=1e-6)
  assert value['kl'] == pytest.approx(value['mutual_information'] + value['marginal_kl'], rel=1e-6)
  assert value['mutual_information'] < value['mutual_information_upper'] <= value['kl']
  assert summary == codes.summarize(latent, keys(FEW), q)


def test_a_split_of_one_code():
  q = Normal(jnp.arange(5.0)[:, None], jnp.zeros((5, 1)))
  summary = codes.summarize(latents.DIAGONAL, keys(5), q)
  assert all(np.isfinite(entry['value']) for entry in summary.values())


def test_what_is_refused():
  q, z = encode('diagonal', FEW)
  with pytest.raises(FloatingPointError, match=r'kl is not finite for examples \[3\]'):
    codes.summarize(latents.DIAGONAL, keys(FEW), q._replace(mean=q.mean.at[3].set(jnp.nan)))
  with pytest.raises(
    ValueError, match='5 examples for codes of 3 dimensions; there are at least 6'
  ):
    codes.moment_kl(q, z[:5])
