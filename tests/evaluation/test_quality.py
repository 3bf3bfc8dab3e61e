"""Sample quality: closed forms, definitions written out, errors against repeated draws."""

import numpy as np
import pytest
from scipy import ndimage

from vaediff.evaluation import quality
from vaediff.evaluation.quality import Estimate


def rng(seed=0):
  return np.random.default_rng(seed)


def with_moments(mean, covariance, n=50, seed=0):
  """n points whose sample mean and unbiased sample covariance are exactly these."""
  x = rng(seed).normal(size=(n, len(mean)))
  x -= x.mean(axis=0)
  x = np.linalg.solve(np.linalg.cholesky(np.atleast_2d(np.cov(x.T))), x.T).T
  eigenvalues, vectors = np.linalg.eigh(covariance)
  return mean + x @ (vectors * np.sqrt(np.maximum(eigenvalues, 0))).T


def random_covariance(dim, rank, seed):
  factor = rng(seed).normal(size=(dim, rank))
  return factor @ factor.T


def check_error_by_repeated_draws(measure, draw, allowed):
  """The root mean square of the reported errors over the spread of the values of 200 draws.

  That spread has a relative error of 5%, so 5 standard errors are 25%.
  """
  values, errors = np.array([measure(*draw(rng(seed))) for seed in range(200)]).T
  low, high = allowed
  assert low < np.sqrt(np.mean(errors**2)) / np.std(values, ddof=1) < high


def check_error_by_leaving_one_out(measure, *samples, rtol=0.03):
  """The reported error against the jackknife's, which knows no influences: equal up to O(1/n)."""
  variance = 0
  for i, sample in enumerate(samples):
    n = len(sample)
    left_out = [
      measure(*samples[:i], np.delete(sample, j, axis=0), *samples[i + 1 :])[0] for j in range(n)
    ]
    variance += (n - 1) * np.var(left_out)
  np.testing.assert_allclose(measure(*samples)[1], np.sqrt(variance), rtol=rtol)


# Fréchet distance


def test_frechet_distance_of_diagonal_gaussians():
  real = with_moments(np.array([1.0, -2.0]), np.diag([4.0, 9.0]))
  fake = with_moments(np.array([0.0, 1.0]), np.diag([1.0, 16.0]), n=70, seed=1)
  # |m_1 - m_2|^2 = 1 + 9 and sum (s_1 - s_2)^2 = 1 + 1
  np.testing.assert_allclose(quality.frechet_distance(real, fake).value, 12, rtol=1e-12)


def test_frechet_distance_of_full_covariances():
  """Against the trace of the square root by the eigenvalues of the product S_1 S_2."""
  covariances = random_covariance(6, 6, 1), random_covariance(6, 6, 2)
  real, fake = (with_moments(np.zeros(6), s, seed=i) for i, s in enumerate(covariances))
  root_trace = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).real).sum()
  exact = np.trace(covariances[0] + covariances[1]) - 2 * root_trace
  np.testing.assert_allclose(quality.frechet_distance(real, fake).value, exact, rtol=1e-10)


def test_frechet_distance_of_singular_covariances():
  """Two lines in 40 dimensions: 1 + 1 - 2 |u.v| for unit variances. A plane against a space."""
  u, v = np.eye(40)[0], (3 * np.eye(40)[0] + 4 * np.eye(40)[1]) / 5
  steps = with_moments(np.zeros(1), np.eye(1), n=30)
  value, stderr = quality.frechet_distance(steps * u, steps * v)
  np.testing.assert_allclose(value, 2 - 2 * 0.6, rtol=1e-12)
  assert np.isfinite(stderr)
  rotation = np.linalg.qr(rng().normal(size=(40, 40)))[0]
  plane = with_moments(np.zeros(40), np.diag([1.0] * 2 + [0.0] * 38), n=60) @ rotation
  space = with_moments(np.zeros(40), 4 * np.eye(40), n=60, seed=1)
  value, stderr = quality.frechet_distance(plane, space)
  np.testing.assert_allclose(value, 2 * 1 + 38 * 4, rtol=1e-12)
  assert np.isfinite(stderr)


def test_frechet_distance_of_a_point():
  """Samples that are all the same have no covariance: |m_1 - m_2|^2 + tr S_1."""
  real = with_moments(np.ones(2), np.diag([4.0, 9.0]))
  value, stderr = quality.frechet_distance(real, np.zeros((30, 2)))
  assert value == pytest.approx(2 + 13)
  assert stderr == pytest.approx(np.std(np.square(real).sum(axis=1), ddof=1) / np.sqrt(50))


def test_frechet_distance_with_fewer_examples_than_dimensions():
  x = rng().normal(size=(20, 100))
  np.testing.assert_allclose(quality.frechet_distance(x, x + 1).value, 100, rtol=1e-9)


def test_frechet_distance_converges():
  """N(0, I) against N(0.5, 4 I) in 3 dimensions: 3 (0.25 + 1), within 5 errors (6e-7)."""
  value, stderr = quality.frechet_distance(
    rng(0).normal(size=(200_000, 3)), rng(1).normal(0.5, 2, size=(200_000, 3))
  )
  assert abs(value - 3.75) < 5 * stderr
  assert stderr < 0.02


def skewed(dim, n, seed):
  """Points whose third moments are not zero, so that all terms of an influence count."""
  return rng(seed).exponential(size=(n, dim)) @ rng(seed + 1).normal(size=(dim, dim))


def test_error_of_the_frechet_distance_is_the_linearised_one():
  check_error_by_leaving_one_out(quality.frechet_distance, skewed(3, 200, 0), skewed(3, 300, 2))


def test_error_of_the_frechet_distance_is_the_spread():
  mixing = rng().normal(size=(4, 4))

  def draw(rng):
    return rng.exponential(size=(300, 4)), rng.normal(size=(500, 4)) @ mixing

  check_error_by_repeated_draws(quality.frechet_distance, draw, (0.75, 1.25))


# Precision, recall, density, coverage


def by_definition(real, fake, manifold_k, density_k):
  """The four definitions, one pair of examples at a time."""

  def radius(i, examples, k):
    others = np.delete(examples, i, axis=0)
    return np.sort(np.linalg.norm(others - examples[i], axis=1))[k - 1]

  def inside(examples, queries, k):
    return np.array(
      [
        [np.linalg.norm(q - c) <= radius(i, examples, k) for i, c in enumerate(examples)]
        for q in queries
      ]
    )

  balls = inside(real, fake, density_k)
  return {
    'precision': inside(real, fake, manifold_k).any(axis=1).mean(),
    'recall': inside(fake, real, manifold_k).any(axis=1).mean(),
    'density': balls.sum() / (density_k * len(fake)),
    'coverage': balls.any(axis=0).mean(),
  }


def values(estimates):
  return {name: estimate.value for name, estimate in estimates.items()}


@pytest.mark.parametrize('ks', [(3, 5), (1, 2), (4, 3)])
def test_neighbour_measures_are_their_definitions(ks, monkeypatch):
  monkeypatch.setattr(quality, '_BLOCK_SIZE', 7)
  real, fake = rng(0).normal(size=(60, 4)), rng(1).normal(1, 0.7, size=(43, 4))
  expected = by_definition(real, fake, *ks)
  assert all(0.05 < value < 0.95 or name == 'density' for name, value in expected.items())
  assert values(quality.neighbour_measures(real, fake, *ks)) == pytest.approx(expected)


def test_identical_sets():
  """Each example lies in its own ball and, ties counting, in those of which it is a neighbour."""
  x = 100 + rng().normal(size=(300, 8)).astype(np.float32)
  measured = values(quality.neighbour_measures(x, x[::-1]))
  # A ball of k neighbours holds k + 1 examples.
  assert measured == pytest.approx({'precision': 1, 'recall': 1, 'density': 6 / 5, 'coverage': 1})


def test_repeated_examples_are_their_own_neighbours():
  x = np.repeat(rng().normal(size=(20, 3)), 10, axis=0)
  measured = values(quality.neighbour_measures(x, x + 1e-3))
  assert measured == {'precision': 0, 'recall': 0, 'density': 0, 'coverage': 0}
  assert values(quality.neighbour_measures(x, x))['coverage'] == 1


def test_disjoint_sets():
  x = rng().normal(size=(50, 3))
  measured = quality.neighbour_measures(x, x + 100)
  assert set(measured.values()) == {Estimate(0.0, 0.0)}


def test_a_lost_mode():
  """Two modes far apart, of which the samples have one: right where they are, half is missing."""
  mode = rng(0).normal(size=(400, 2))
  real = np.concatenate([mode, rng(1).normal(size=(400, 2)) + 1000])
  measured = values(quality.neighbour_measures(real, mode))
  assert measured['precision'] == 1
  assert measured['recall'] == 0.5
  assert measured['coverage'] == 0.5
  assert measured['density'] == pytest.approx(6 / 5)


def test_expectations_where_the_distributions_are_the_same():
  """Of N - 1 other real and M generated examples in random order, uncovered: k real ones first.

  Mean over 60 draws, within 5 of its standard errors (6e-7); the expected density is exactly 1.
  """
  n, m, k = 40, 60, 2
  draws = [
    values(quality.neighbour_measures(*np.split(rng(seed).normal(size=(n + m, 2)), [n]), 2, k))
    for seed in range(60)
  ]
  exact = {
    'coverage': 1 - np.prod([(n - 1 - i) / (n - 1 + m - i) for i in range(k)]),
    'density': 1.0,
  }
  for name, expected in exact.items():
    measured = np.array([draw[name] for draw in draws])
    assert abs(measured.mean() - expected) < 5 * measured.std() / np.sqrt(60)
    assert measured.std() < 0.2  # else the check above could not fail


@pytest.mark.parametrize('name', ['precision', 'recall', 'density', 'coverage'])
def test_error_of_neighbour_measures(name):
  """A little too large, as the docstring says; resampling with repetition would be far off."""

  def draw(rng):
    return rng.normal(size=(100, 8)), 0.8 * rng.normal(size=(100, 8)) + 0.3

  def measure(real, fake):
    return quality.neighbour_measures(real, fake)[name]

  check_error_by_repeated_draws(measure, draw, (0.75, 1.75))


def test_half_sampling_error_of_a_mean():
  """That of a mean is known exactly; 4,000 halves estimate it to 1.1%, 5 of which are 6%."""
  x = rng().exponential(size=1000)
  error = quality.half_sampling_error(np.mean, x, num_resamples=4000, seed=0)
  np.testing.assert_allclose(error, x.std(ddof=1) / np.sqrt(1000), rtol=0.06)


def test_half_sampling_error_of_two_samples():
  x, y = rng(0).normal(size=100), rng(1).normal(0, 3, size=400)
  error = quality.half_sampling_error(
    lambda x, y: np.array([x.mean() - y.mean(), 0.0]), x, y, num_resamples=4000, seed=0
  )
  exact = np.sqrt(x.var(ddof=1) / 100 + y.var(ddof=1) / 400)
  np.testing.assert_allclose(error, [exact, 0], rtol=0.06)


def test_too_few_examples_are_refused():
  with pytest.raises(ValueError, match=r'11 real and 20 generated .* give at least 12 of each'):
    quality.neighbour_measures(rng().normal(size=(11, 2)), rng().normal(size=(20, 2)))


# Classes


def test_class_entropy():
  with np.errstate(divide='ignore'):
    log_probs = np.log([[1, 0, 0], [0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3]])
  entropies = [0, np.log(2), np.log(3)]
  value, stderr = quality.class_entropy(log_probs)
  assert value == pytest.approx(np.mean(entropies))
  assert stderr == pytest.approx(np.std(entropies, ddof=1) / np.sqrt(3))


def test_class_balance():
  """Real classes 1/2, 1/4, 1/4; predicted on average 3/4, 1/4, 0: 3/4 log(3/2)."""
  labels = np.array([0, 0, 1, 2])
  with np.errstate(divide='ignore'):
    value, _ = quality.class_balance(labels, np.log([[1, 0, 0], [0.5, 0.5, 0]]))
    balanced = quality.class_balance(labels, np.log(np.eye(3)[labels]))
  assert value == pytest.approx(0.75 * np.log(1.5))
  assert balanced == Estimate(0.0, 0.0)


def test_error_of_class_balance():
  labels, probs = rng(0).choice(3, 200, p=[0.2, 0.3, 0.5]), rng(1).dirichlet([3, 1, 1], 100)
  check_error_by_leaving_one_out(quality.class_balance, labels, np.log(probs))


@pytest.mark.parametrize('labels', [[0, 1, 1], [0, 1, 2, 3], [0, 1, 2, -1]])
def test_labels_of_other_classes_are_refused(labels):
  with pytest.raises(ValueError, match=r'the classifier has 3 classes: give labels 0 to 2'):
    quality.class_balance(np.array(labels), np.zeros((2, 3)))


# Pixels


def textures(size, channels=1, n=200, seed=0):
  """Pictures on 256 levels that are smooth but not blank, with a different contrast each."""
  smooth = ndimage.gaussian_filter(rng(seed).normal(size=(n, size, size, channels)), (0, 1, 1, 0))
  contrast = rng(seed + 1).uniform(20, 60, size=(n, 1, 1, 1))
  return np.clip(np.round(128 + contrast * smooth / smooth.std()), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(('size', 'channels'), [(8, 1), (28, 1), (28, 3)])
def test_sharpness_of_the_data_of_blur_and_of_noise(size, channels):
  x = textures(size, channels)
  blurred = ndimage.gaussian_filter(x.astype(float), (0, 0.7, 0.7, 0))
  noisy = x + rng(3).normal(0, 10, size=x.shape)
  assert quality.sharpness(x, x).value == pytest.approx(1)
  assert quality.sharpness(x, 5 + 0.3 * x).value == pytest.approx(1)
  assert quality.sharpness(x, blurred).value < 0.6
  assert quality.sharpness(x, noisy).value > 1.4
  value, stderr = quality.sharpness(x, textures(size, channels, seed=5))
  assert abs(value - 1) < 5 * stderr  # false alarm 6e-7


def test_sharpness_of_waves():
  """One wave of amplitude a below half the Nyquist frequency, one of amplitude b above it."""

  row, column = (np.mgrid[:16, :16] + 0.5) * np.pi / 16

  def pictures(x):
    return x[None, :, :, None].repeat(2, 0)

  def waves(a, b):
    # Of 16 frequencies, 8 is half of Nyquist's.
    return pictures(a * np.cos(8 * row) + b * np.cos(9 * column))

  # The share of power is b^2 / (a^2 + b^2): 1/5 and 1/10.
  assert quality.sharpness(waves(2, 1), waves(3, 1)) == pytest.approx((0.5, 0))
  # Diagonally, two frequencies below half of Nyquist's make one above: shares 1/2 and 1.
  diagonal = pictures(np.cos(6 * row) * np.cos(6 * column))
  assert quality.sharpness(waves(1, 1), diagonal).value == pytest.approx(2)


def test_a_jump_across_the_border_is_not_sharpness():
  """A ramp is smooth, although it jumps where it is continued periodically."""
  ramp = np.arange(28.0)[None, :, None, None] * np.ones((2, 28, 28, 1))
  noise = rng().normal(size=(100, 28, 28, 1))
  assert quality.sharpness(noise, ramp).value < 1e-3


def test_error_of_sharpness():
  noise = np.where(rng(1).uniform(size=(60, 1, 1, 1)) < 0.3, 10, 1)
  noisy = textures(8, n=60, seed=5) + noise * rng(2).normal(size=(60, 8, 8, 1))
  check_error_by_leaving_one_out(quality.sharpness, textures(8, n=80), noisy)


def test_nearest_distance_is_the_smallest_of_all():
  train, x = textures(8, 3, n=50), textures(8, 3, n=20, seed=7)
  differences = x[:, None].astype(float) - train[None]
  exact = np.sqrt(np.square(differences).sum(axis=(2, 3, 4))).min(axis=1)
  np.testing.assert_allclose(quality.nearest_distance(x, train), exact, rtol=1e-12)


def test_copies_are_at_distance_zero():
  """Exactly, also beside training pictures that differ by one level in one pixel."""
  x = rng().integers(200, 256, size=(40, 28, 28, 1)).astype(np.uint8)
  neighbour = x.copy()
  neighbour[:, 3, 4] -= 1
  train = np.concatenate([neighbour, x])
  np.testing.assert_array_equal(quality.nearest_distance(x, train), 0)
  np.testing.assert_array_equal(quality.nearest_distance(neighbour, x), 1)
  assert quality.training_distance(train, textures(28, n=30), x) == Estimate(0.0, 0.0)


def test_training_distance_is_a_ratio_of_means():
  train = np.zeros((1, 2, 2, 1))
  held_out = np.array([1.0, 3.0])[:, None, None, None] * np.ones((1, 2, 2, 1))
  fake = np.array([1.0, 1.0, 4.0])[:, None, None, None] * np.ones((1, 2, 2, 1))
  # Distances 2 and 6; 2, 2 and 8: variances 8 and 12 of means 4 and 4.
  value, stderr = quality.training_distance(train, held_out, fake)
  assert value == pytest.approx(1)
  assert stderr == pytest.approx(np.sqrt(8 / 2 + 12 / 3) / 4)


# Drift


def test_drift_of_gaussians_in_closed_form():
  real = with_moments(np.zeros(3), np.diag([1.0, 4.0, 1.0]))
  model = with_moments(np.ones(3), np.diag([1.0, 1.0, 1.0]), n=80, seed=1)
  drift = quality.drift(real, model)
  assert drift['frechet_distance']['value'] == pytest.approx(3 + 1)
  assert drift['variance_change']['value'] == pytest.approx(3 / 6 - 1)
  assert drift['variance_change']['unit'] == 'ratio'


def test_drift_is_nothing_on_the_same_distribution():
  """Variance within 5 errors of 0 (6e-7); the distance is its bias of about D (D + 3)/4 2/N."""
  real, model = rng(0).normal(size=(5000, 5)), rng(1).normal(size=(5000, 5))
  drift = quality.drift(real, model)
  change, distance = drift['variance_change'], drift['frechet_distance']
  assert abs(change['value']) < 5 * change['stderr']
  assert change['stderr'] < 0.02
  assert 0 < distance['value'] < 5 * 8 / 4 * 2 / 5000 + 5 * distance['stderr']
  assert distance['stderr'] < 0.005


def test_error_of_the_variance_change():
  def measure(real, model):
    change = quality.drift(real, model)['variance_change']
    return change['value'], change['stderr']

  check_error_by_leaving_one_out(measure, skewed(6, 200, 0), skewed(6, 150, 2))


# All together


def arguments():
  real = textures(8, n=301)
  fake = textures(8, n=200, seed=11)
  project = rng(5).normal(size=(64, 6)) / 100
  return {
    'real_pictures': real,
    'real_features': real.reshape(301, -1) @ project,
    'real_labels': np.arange(301) % 4,
    'held_out_pictures': textures(8, n=60, seed=21),
    'held_out_log_probs': np.log(rng(7).dirichlet(np.ones(4), 60)),
    'fake_pictures': fake,
    'fake_features': fake.reshape(200, -1) @ project,
    'fake_log_probs': np.log(rng(6).dirichlet(np.ones(4), 200)),
  }


def test_every_measure_has_value_error_and_unit_and_of_distributions_a_floor():
  results = quality.sample_quality(**arguments())
  compared = {'frechet_distance', 'precision', 'recall', 'density', 'coverage', 'sharpness'}
  compared |= {'class_entropy', 'class_balance'}
  floors = {f'{name}_floor' for name in compared}
  assert set(results) == compared | floors | {'training_distance'}
  for metric in results.values():
    assert set(metric) == {'value', 'stderr', 'unit'}
    assert type(metric['value']) is float
    assert type(metric['stderr']) is float
    assert metric['stderr'] > 0
  # Of the same distribution, the samples are as good as the floor: 5 errors of the difference.
  for name in compared:
    sample, floor = results[name], results[f'{name}_floor']
    error = np.hypot(sample['stderr'], floor['stderr'])
    assert abs(sample['value'] - floor['value']) < 5 * error, name
    assert sample['unit'] == floor['unit']


def test_samples_and_floor_are_compared_with_the_same_real_examples_and_as_many():
  """The floor does not know the samples; samples that are the other half are at the floor."""
  given = arguments()
  # The halves are drawn as the function draws them: n = 301 // 2.
  other_half = rng(3).permutation(301)[150:300]
  # What the model has drawn beyond n is not compared.
  half = rng(3).permutation(301)[:50]
  drawn = np.concatenate([other_half, half])
  given['fake_pictures'] = given['real_pictures'][drawn]
  given['fake_features'] = given['real_features'][drawn]
  results = quality.sample_quality(**given, seed=3)
  for name in ('frechet_distance', 'precision', 'recall', 'density', 'coverage', 'sharpness'):
    assert results[name] == results[f'{name}_floor']
  assert results['training_distance']['value'] == 0
