"""Expectations over normal distributions on the line by quadrature, in float64 NumPy.

Whatever JAX's precision: for the exact answers that have no closed form.
"""

import math

import numpy as np


def standard_normal(num_points: int, reach: float = 9.0) -> tuple[np.ndarray, np.ndarray]:
  """Points z and weights, with sum 1: f(z) @ weights is E[f(z)] for z ~ N(0, 1).

  The trapezoidal rule on [-reach, reach], whose error falls exponentially with num_points for
  smooth f. Both [num_points].
  """
  z = np.linspace(-reach, reach, num_points)
  density = np.exp(-0.5 * z**2)
  return z, density / density.sum()


def log_normal_density(x, mean, variance):
  """log N(x; mean, variance), elementwise."""
  return -0.5 * ((x - mean) ** 2 / variance + np.log(2 * math.pi * variance))
