"""Orthogonal updates against a singular value decomposition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaediff import muon


def polynomial(s):
  """The published one, five times."""
  for _ in range(5):
    s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
  return s


@pytest.mark.parametrize('smallest', [1e-1, 1e-6])
@pytest.mark.parametrize('shape', [(40, 8), (8, 40), (6, 6), (5, 1)])
def test_singular_values_are_mapped_and_the_bases_kept(shape, smallest):
  rng = np.random.default_rng(0)
  rank = min(shape)
  left, _ = np.linalg.qr(rng.normal(size=(shape[0], rank)))
  right, _ = np.linalg.qr(rng.normal(size=(shape[1], rank)))
  values = np.geomspace(1, smallest, rank)
  x = 1e-3 * left @ np.diag(values) @ right.T
  expected = left @ np.diag(polynomial(values / np.linalg.norm(values))) @ right.T
  # In float32 x^T x is off by 1e-7 of its largest value: by 1e-5 of the square of a value a tenth
  # as large, which the polynomial makes a few times more of; squares below 1e-7 are lost.
  tolerance = 5e-5 if smallest == 1e-1 else 1e-3
  ours = muon.orthogonalize([jnp.asarray(x, jnp.float32)])[0]
  np.testing.assert_allclose(ours, expected, atol=tolerance)


def test_accelerators_stack_matrices_and_compute_the_same(monkeypatch):
  rng = np.random.default_rng(0)
  shapes = (40, 8), (8, 12), (6, 6), (24, 8), (6, 30)
  matrices = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
  one_by_one = muon.orthogonalize(matrices)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  for one, stacked in zip(one_by_one, muon.orthogonalize(matrices), strict=True):
    np.testing.assert_allclose(one, stacked, atol=1e-5)


def test_a_matrix_of_zeros_stays_one():
  np.testing.assert_array_equal(muon.orthogonalize([jnp.zeros((4, 3))])[0], jnp.zeros((4, 3)))


def test_updates_have_the_size_of_those_of_adam():
  """0.2 root mean square, whatever the shape, within what the polynomial leaves of the values."""
  for shape in ((64, 64), (256, 16), (16, 256), (3, 3, 16, 16)):
    transformation = muon.scale_by_muon(0.9, 1e-8)
    grads = 1e3 * jax.random.normal(jax.random.key(0), shape)
    update, _ = transformation.update(grads, transformation.init(grads))
    size = float(jnp.sqrt(jnp.mean(jnp.square(update))))
    assert 0.2 * 0.68 < size < 0.2 * 1.21
