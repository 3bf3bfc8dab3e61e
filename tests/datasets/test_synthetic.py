"""Synthetic data have the moments that they say they have."""

import numpy as np
import pytest

from vaediff.datasets import synthetic


def test_gaussian_moments():
  mean, covariance = np.array([1.0, -2.0]), np.array([[2.0, -0.6], [-0.6, 0.5]])
  n = 100_000
  x = synthetic.gaussian(0, n, mean, covariance)
  assert (x.shape, x.dtype) == ((n, 2), np.float32)
  # Six standard errors in each of six numbers: false alarm below 2e-8 over seeds.
  np.testing.assert_array_less(abs(x.mean(0) - mean), 6 * np.sqrt(np.diag(covariance) / n))
  variances = np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2
  np.testing.assert_array_less(abs(np.cov(x.T) - covariance), 6 * np.sqrt(variances / n))


def test_mixture_components():
  weights, means = [0.2, 0.8], [[-10.0], [10.0]]
  n = 50_000
  x = synthetic.gaussian_mixture(1, n, weights, means, [[[1.0]], [[0.25]]])[:, 0]
  left, right = x[x < 0], x[x > 0]  # the components are ten standard deviations apart
  assert abs(len(left) / n - 0.2) < 6 * np.sqrt(0.2 * 0.8 / n)
  assert abs(left.std() - 1.0) < 6 / np.sqrt(2 * len(left))
  assert abs(right.std() - 0.5) < 6 * 0.5 / np.sqrt(2 * len(right))


def test_seed_decides():
  draw = [synthetic.gaussian(seed, 5, [0.0], [[1.0]]) for seed in (3, 3, 4)]
  np.testing.assert_array_equal(draw[0], draw[1])
  assert not np.any(draw[0] == draw[2])


def test_impossible_covariance_is_refused():
  with pytest.raises(np.linalg.LinAlgError):
    synthetic.gaussian(0, 5, [0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]])
