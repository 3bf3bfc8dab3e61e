"""How good samples are: measures of generated pictures, each with its standard error.

Distances between distributions of features (Fréchet distance, precision, recall, density,
coverage), what a classifier says of the samples, and what the pixels say (sharpness, distance to
the training pictures). Plain NumPy on the host, in float64.

A smooth measure of a sample is, to first order, its value on the population plus the mean of one
term for each example, its influence: its standard error is that of this mean, and of several
independent samples the root of the sum of squares. Measures made of nearest neighbours are not
smooth; their errors are found by half-sampling. Both count the examples of both sides, real and
generated. They do not count the bias that every measure of distributions has on small samples,
which is why each of these is reported beside its floor.
"""

from typing import NamedTuple

import numpy as np
from scipy import fft, special

_UNITS = {
  'frechet_distance': 'squared distance',
  'precision': 'share',
  'recall': 'share',
  'density': 'ratio',
  'coverage': 'share',
  'sharpness': 'ratio',
  'training_distance': 'ratio',
  'class_entropy': 'nats',
  'class_balance': 'nats',
  'variance_change': 'ratio',
}

# Rows of a distance matrix that are in memory at once.
_BLOCK_SIZE = 512


class Estimate(NamedTuple):
  """A measured value and its standard error."""

  value: float
  stderr: float


def estimate(value, *influences) -> Estimate:
  """`value`, and its error from the influences [N_i] of the examples of each independent sample.

  Influences may be off by a constant. Of a mean of x [N], x itself are the influences.
  """
  variance = sum(np.var(influence, ddof=1) / len(influence) for influence in influences)
  return Estimate(float(value), float(np.sqrt(variance)))


def sample_quality(
  *,
  real_pictures,
  real_features,
  real_labels,
  held_out_pictures,
  held_out_log_probs,
  fake_pictures,
  fake_features,
  fake_log_probs,
  seed: int = 0,
) -> dict[str, dict]:
  """All measures of generated pictures: {name: {'value', 'stderr', 'unit'}}.

  real_pictures [N, H, W, C], real_features [N, F], real_labels [N]: the training split.
  held_out_pictures [K, H, W, C], held_out_log_probs [K, num_classes]: real ones that were not
  trained on. fake_pictures [M, H, W, C], fake_features [M, F], fake_log_probs [M, num_classes]:
  generated.

  The measures of distributions are biased, the more the fewer the examples. They compare
  n = min(N // 2, M) generated pictures with n real ones, and `NAME_floor` compares n other real
  ones, drawn without repetition by `seed`, with the same n: what a perfect model would get. The
  other measures take all that they are given; the floor of what the classifier says is what it says
  of the held-out pictures.

  Raises ValueError where the two halves or the generated pictures are fewer than 12.
  """
  n = min(len(real_pictures) // 2, len(fake_pictures))
  order = np.random.default_rng(seed).permutation(len(real_pictures))
  half, other_half = order[:n], order[n : 2 * n]

  def against_half(pictures, features):
    return {
      'frechet_distance': frechet_distance(real_features[half], features),
      **neighbour_measures(real_features[half], features, seed=seed),
      'sharpness': sharpness(real_pictures[half], pictures),
    }

  floor = against_half(real_pictures[other_half], real_features[other_half])
  estimates = {
    **against_half(fake_pictures[:n], fake_features[:n]),
    **{f'{name}_floor': measured for name, measured in floor.items()},
    'training_distance': training_distance(real_pictures, held_out_pictures, fake_pictures),
    'class_entropy': class_entropy(fake_log_probs),
    'class_balance': class_balance(real_labels, fake_log_probs),
    'class_entropy_floor': class_entropy(held_out_log_probs),
    'class_balance_floor': class_balance(real_labels, held_out_log_probs),
  }
  return _with_units(estimates)


def drift(real_states, model_states) -> dict[str, dict]:
  """How far a model's marginal at one noise level is from the true q(x_t) (lecture section 2.2).

  real_states [N, D]: independent draws of q(x_t). model_states [M, D]: of the model's chain at the
  same t. Returns {name: {'value', 'stderr', 'unit'}}: 'frechet_distance', of the Gaussians fitted
  to both, in squared units of x_t, and 'variance_change', the relative difference of the mean
  variance of a pixel (negative where the chain has lost variance).
  """
  variances = [np.square(_centred(states)).mean(axis=1) for states in (real_states, model_states)]
  real, model = (variance.sum() / (len(variance) - 1) for variance in variances)
  change = estimate(model / real - 1, model / real**2 * variances[0], variances[1] / real)
  frechet = frechet_distance(real_states, model_states)
  return _with_units({'frechet_distance': frechet, 'variance_change': change})


def frechet_distance(real, fake) -> Estimate:
  """The squared Fréchet (2-Wasserstein) distance of the Gaussians fitted to two sets of features.

  |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)) (Dowson & Landau 1982; of Inception features the
  FID of Heusel et al. 2017). real: [N, F], fake: [M, F]. Covariances may be singular.

  Biased upwards by a term of order 1/N. The error is the linearised one; where the two
  distributions are the same the linear part vanishes, and it is about 1.5 times too large.
  """
  real, fake = np.asarray(real, np.float64), np.asarray(fake, np.float64)
  mean_difference = real.mean(axis=0) - fake.mean(axis=0)
  real, fake = _centred(real), _centred(fake)
  root_1, root_2 = _covariance_root(real), _covariance_root(fake)
  # With S_i = L_i L_i^T, the trace of (S_1 S_2)^(1/2) is the sum of the singular values of
  # L_1^T L_2: a sum of non-negative numbers, whatever the product S_1 S_2 rounds to.
  u, s, vt = np.linalg.svd(root_1.T @ root_2)
  traces = np.sum(root_1**2) + np.sum(root_2**2)
  value = mean_difference @ mean_difference + traces - 2 * s.sum()

  # The influence of x is the potential of optimal transport between the two Gaussians,
  # |x - m_1|^2 - (x - m_1)^T A (x - m_1) + 2 (m_1 - m_2)^T x, with the transport map
  # A = L_2 V s^-1 V^T L_2^T; directions in which s = 0 do not transport.
  inverse_root = np.where(s > s.max() * len(s) * np.finfo(float).eps, s, np.inf) ** -0.5
  influences = [
    np.sum(np.square(x), axis=1) - np.sum(np.square(x @ half_map), axis=1) + 2 * x @ shift
    for x, half_map, shift in (
      (real, root_2 @ vt.T * inverse_root, mean_difference),
      (fake, root_1 @ u * inverse_root, -mean_difference),
    )
  ]
  return estimate(value, *influences)


def neighbour_measures(
  real, fake, manifold_k: int = 3, density_k: int = 5, num_resamples: int = 20, seed: int = 0
) -> dict[str, Estimate]:
  """Where generated examples lie among real ones, and real among generated ones.

  A set is stood for by the closed balls around its examples, each of which reaches to the k-th
  nearest other example of the set. With manifold_k (Kynkäänniemi et al. 2019, eq. 1-2):

  - 'precision': the share of generated examples that lie in a ball of the real ones,
  - 'recall': the share of real examples that lie in a ball of the generated ones;

  with density_k (Naeem et al. 2020, section 3):

  - 'density': how many balls of real examples a generated one lies in, over k, in the mean; 1 in
    expectation where the distributions are the same,
  - 'coverage': the share of balls of real examples that a generated one lies in; where the
    distributions are the same and N = M is large, 1 - 2^-k in expectation.

  real: [N, F], fake: [M, F]. Errors by `half_sampling_error`; against repeated draws they were 1.0
  to 1.5 times too large. Raises ValueError where there are too few examples for half of them to
  have the neighbours.
  """
  needed = 2 * (max(manifold_k, density_k) + 1)
  if min(len(real), len(fake)) < needed:
    raise ValueError(
      f'{len(real)} real and {len(fake)} generated examples are too few for {manifold_k} and '
      f'{density_k} neighbours; give at least {needed} of each'
    )
  # About a common origin: distances by matrix products lose digits with the distance from it.
  origin = np.mean(real, axis=0, dtype=np.float64)
  real, fake = real - origin, fake - origin

  def measure(real, fake):
    return _neighbour_measures(real, fake, manifold_k, density_k)

  errors = half_sampling_error(measure, real, fake, num_resamples=num_resamples, seed=seed)
  names = ('precision', 'recall', 'density', 'coverage')
  return {
    name: Estimate(float(value), float(stderr))
    for name, value, stderr in zip(names, measure(real, fake), errors)
  }


def half_sampling_error(statistic, *arrays, num_resamples: int, seed: int):
  """The standard error of statistic(*arrays) -> scalar or array, over the examples of each array.

  It is the standard deviation of the statistic over random halves of every array (the delete-d
  jackknife of Shao & Wu 1989, d = n/2, by random subsets): half as many examples have twice the
  variance, and halves of one sample have half of that in common. In a half no example is repeated,
  where the bootstrap's repetitions would put nearest neighbours at distance zero.
  """
  rng = np.random.default_rng(seed)
  halves = [
    statistic(*(array[rng.permutation(len(array))[: len(array) // 2]] for array in arrays))
    for _ in range(num_resamples)
  ]
  return np.std(halves, axis=0, ddof=1)


def class_entropy(log_probs) -> Estimate:
  """How sure a classifier is of the samples: the mean entropy of its prediction, in nats.

  log_probs: [N, num_classes], normalised. 0 is sure, log(num_classes) knows nothing.
  """
  entropy = special.entr(np.exp(np.asarray(log_probs, np.float64))).sum(axis=1)
  return estimate(np.mean(entropy), entropy)


def class_balance(real_labels, log_probs) -> Estimate:
  """KL(mean predicted distribution of the samples | real class frequencies), in nats.

  0 is balanced. real_labels: integers [N]. log_probs: [M, num_classes]. The error is the linearised
  one, too small where the value is near 0. Raises ValueError for labels outside
  0..num_classes-1, and where a class has no real example.
  """
  probs = np.exp(np.asarray(log_probs, np.float64))
  real_labels, num_classes = np.asarray(real_labels), probs.shape[1]
  if not np.array_equal(np.unique(real_labels), np.arange(num_classes)):
    raise ValueError(
      f'real labels are {np.unique(real_labels).tolist()}; the classifier has {num_classes} '
      f'classes: give labels 0 to {num_classes - 1}, each at least once'
    )
  mean_probs = probs.mean(axis=0)
  frequencies = np.bincount(real_labels) / len(real_labels)
  value = special.rel_entr(mean_probs, frequencies).sum()
  fake_influence = special.xlogy(probs, mean_probs / frequencies).sum(axis=1)
  return estimate(value, fake_influence, -(mean_probs / frequencies)[real_labels])


def sharpness(real, fake) -> Estimate:
  """High-frequency power of generated pictures relative to real ones: 1 as sharp, below 1 blurred.

  The share of a set's power, each picture's mean removed, at spatial frequencies above half the
  Nyquist frequency (more than 1/4 cycle a pixel, in whatever direction); the share of the generated
  pictures over that of the real ones. White noise has a share of 3/4 or more, so noise raises what
  blur lowers; brightness and contrast do not count. Frequencies are those of the cosine transform,
  the Fourier transform of the picture beside its mirror images: continued periodically instead, a
  picture jumps at its border, and the jump is high-frequency power that no blur takes away.

  real: [N, H, W, C], fake: [M, H, W, C], on levels or any other scale.
  """
  (real_share, real_influence), (fake_share, fake_influence) = map(_high_share, (real, fake))
  ratio = fake_share / real_share
  return estimate(ratio, ratio / real_share * real_influence, fake_influence / real_share)


def training_distance(train, held_out, fake) -> Estimate:
  """Distance of samples to their nearest training picture, over that of held-out real ones.

  The ratio of the two mean Euclidean distances of pixels, whose scale cancels: clearly below 1 the
  model copies, at 0 it does nothing else. The training pictures are what they are: the error is
  over the held-out and the generated pictures. All: [N, H, W, C], on levels.
  """
  real_distances, fake_distances = (nearest_distance(x, train) for x in (held_out, fake))
  real_mean, ratio = np.mean(real_distances), np.mean(fake_distances) / np.mean(real_distances)
  return estimate(ratio, ratio / real_mean * real_distances, fake_distances / real_mean)


def nearest_distance(pictures, train):
  """Euclidean distance of pictures [N, ...] to the nearest of `train` [M, ...]: [N], float64."""
  from sklearn.metrics import pairwise_distances_argmin  # two seconds to import

  x, y = (np.asarray(a, np.float32).reshape(len(a), -1) for a in (pictures, train))
  nearest = pairwise_distances_argmin(x, y)
  # Found by |x|^2 - 2 x y + |y|^2, which rounds; measured by the difference, which is exact.
  return np.linalg.norm(x.astype(np.float64) - y[nearest], axis=1)


def _with_units(estimates: dict[str, Estimate]) -> dict[str, dict]:
  return {
    name: {**measured._asdict(), 'unit': _UNITS[name.removesuffix('_floor')]}
    for name, measured in estimates.items()
  }


def _centred(x):
  x = np.asarray(x, np.float64)
  return x - x.mean(axis=0)


def _covariance_root(centred):
  """L with L L^T the unbiased covariance, by eigenvectors: it may be singular."""
  eigenvalues, vectors = np.linalg.eigh(centred.T @ centred / (len(centred) - 1))
  # The root of a rounded zero, 1e-8, would meet variances of the other set as if it were one.
  rounding = eigenvalues[-1] * len(eigenvalues) * np.finfo(float).eps
  return vectors * np.sqrt(np.where(eigenvalues > rounding, eigenvalues, 0))


def _neighbour_measures(real, fake, manifold_k, density_k):
  """Precision, recall, density and coverage: [4]."""
  # Who lies on the rim of a ball lies in it, however the distance rounds: so do copies.
  rounding = 1e-12 * max(np.sum(x**2, axis=1).max() for x in (real, fake))
  real_radii, balls = _squared_radii(real, (manifold_k, density_k)) + rounding
  (fake_radii,) = _squared_radii(fake, (manifold_k,)) + rounding
  precise, in_balls = [], 0
  recalled, covered = np.zeros((2, len(real)), bool)
  for rows, distances in _squared_distances(fake, real):
    precise.append(np.any(distances <= real_radii, axis=1))
    recalled |= np.any(distances <= fake_radii[rows, None], axis=0)
    inside = distances <= balls
    in_balls += inside.sum()
    covered |= inside.any(axis=0)
  density = in_balls / (density_k * len(fake))
  return np.array([np.concatenate(precise).mean(), recalled.mean(), density, covered.mean()])


def _squared_radii(x, ks):
  """Squared distance of each example to its k-th nearest other one, for each k: [len(ks), N]."""
  # In a row sorted in full, the example itself stands before the others, at place 0.
  radii = [np.partition(distances, ks, axis=1)[:, ks] for _, distances in _squared_distances(x, x)]
  return np.concatenate(radii).T


def _squared_distances(x, y):
  """Squared distances of x [M, F] to y [N, F], as (rows, [len(rows), N]) for slices of the rows."""
  y_squared = np.sum(y**2, axis=1)
  for start in range(0, len(x), _BLOCK_SIZE):
    rows = slice(start, start + _BLOCK_SIZE)
    yield rows, np.sum(x[rows] ** 2, axis=1)[:, None] + y_squared - 2 * (x[rows] @ y.T)


def _high_share(pictures):
  """The share of power above half the Nyquist frequency, and the influence of each picture [N].

  Of flat pictures, which have no power, it is 0.
  """
  pictures = np.asarray(pictures, np.float64)
  power = np.square(fft.dctn(pictures, axes=(1, 2), norm='ortho')).sum(axis=3)
  power[:, 0, 0] = 0  # the mean
  rows, columns = (np.arange(size) / (2 * size) for size in pictures.shape[1:3])
  frequency = np.hypot(rows[:, None], columns)
  high, total = power[:, frequency > 0.25].sum(axis=1), power.sum(axis=(1, 2))
  if not total.any():
    return 0.0, np.zeros(len(total))
  share = high.mean() / total.mean()
  return share, (high - share * total) / total.mean()
