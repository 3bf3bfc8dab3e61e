"""Small synthetic data sets, for tests and for checks against exact answers."""

import numpy as np


def gaussian(seed: int, num_examples: int, mean, covariance) -> np.ndarray:
  """Draws from N(mean, covariance); float32 [num_examples, D].

  mean: [D]. covariance: [D, D], positive definite, else numpy.linalg.LinAlgError.
  """
  return gaussian_mixture(seed, num_examples, [1.0], [mean], [covariance])


def gaussian_mixture(seed: int, num_examples: int, weights, means, covariances) -> np.ndarray:
  """Draws from sum_k weights_k N(means_k, covariances_k); float32 [num_examples, D].

  weights: [K], non-negative, summing to one, else ValueError. means: [K, D]. covariances:
  [K, D, D], positive definite, else numpy.linalg.LinAlgError.
  """
  generator = np.random.Generator(np.random.Philox(seed))
  scale_trils = np.linalg.cholesky(np.asarray(covariances, np.float64))
  means = np.asarray(means, np.float64)
  component = generator.choice(len(weights), size=num_examples, p=weights)
  eps = generator.standard_normal((num_examples, means.shape[-1]))
  x = means[component] + np.einsum('nij,nj->ni', scale_trils[component], eps)
  return x.astype(np.float32)
