"""The classifier: cross-entropy and accuracy, and the pictures that training moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaediff.methods.base import Batch, Variables
from vaediff.methods.classifier import classifier
from vaediff.networks import Network

H, W, K = 7, 6, 3
# The features of a picture are its pixels, centred on [-1, 1]; each is the logit of a class.
PIXELS = Network(lambda key, x: {}, lambda params, x: x.reshape(len(x), -1))
SAME = Network(lambda key, x: {}, lambda params, x: 10 * x)
VARIABLES = Variables({'trunk': {}, 'head': {}})


def keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


def pictures(n, label=None) -> Batch:
  rng = np.random.default_rng(0)
  x = rng.integers(0, K, (n, H, W, 1)).astype(np.uint8)
  label = rng.integers(0, H * W, n) if label is None else np.full(n, label)
  return Batch(x, label.astype(np.int32), np.arange(n, dtype=np.int32))


def dots(n, row, column) -> np.ndarray:
  """Pictures of one pixel of the highest level."""
  x = np.zeros((n, H, W, 1), np.uint8)
  x[:, row, column] = K - 1
  return x


def places(method, x, seed=0):
  """Where the loss sees the dot of each picture: the one label whose class is the likeliest."""

  def accuracy(label):
    batch = Batch(x, jnp.full(len(x), label), jnp.arange(len(x)))
    return method.loss(VARIABLES, keys(len(x), seed), batch, 0)['accuracy']

  found = np.asarray(jax.jit(jax.vmap(accuracy))(jnp.arange(H * W)))
  np.testing.assert_array_equal(found.sum(0), 1)
  return np.stack(np.divmod(found.argmax(0), W), axis=1)


def test_cross_entropy_and_accuracy():
  method, batch = classifier(PIXELS, SAME, K), pictures(64)
  logits = 10 * (np.float64(batch.x).reshape(64, -1) - 1)
  log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  scores = method.scores(VARIABLES, keys(64), batch)
  np.testing.assert_allclose(scores['loss'], -log_probs[np.arange(64), batch.label], rtol=1e-5)
  np.testing.assert_array_equal(scores['accuracy'], log_probs.argmax(1) == batch.label)
  statistics = method.statistics(VARIABLES, keys(64), batch)
  np.testing.assert_array_equal(statistics['features'], batch.x.reshape(64, -1).astype(float) - 1)
  np.testing.assert_allclose(statistics['log_probs'], log_probs, rtol=1e-5, atol=1e-5)
  assert dict(method.units) == {'accuracy': '1'}


def test_a_perfect_classifier_has_no_loss():
  method = classifier(PIXELS, SAME, K)
  x = np.concatenate([dots(1, i // W, i % W) for i in range(H * W)])
  label = np.arange(H * W, dtype=np.int32)
  scores = method.scores(VARIABLES, keys(H * W), Batch(x, label, label))
  np.testing.assert_array_equal(scores['accuracy'], 1)
  assert np.all(scores['loss'] < 1e-6)
  wrong = method.scores(VARIABLES, keys(H * W), Batch(x, (label + 1) % (H * W), label))
  np.testing.assert_array_equal(wrong['accuracy'], 0)
  np.testing.assert_allclose(wrong['loss'], 20, rtol=1e-5)


def test_without_shifts_the_loss_is_the_score_and_so_it_is_of_what_is_reported():
  batch = pictures(64)
  still, moving = classifier(PIXELS, SAME, K), classifier(PIXELS, SAME, K, max_shift=2)
  for name, score in still.scores(VARIABLES, keys(64), batch).items():
    np.testing.assert_array_equal(still.loss(VARIABLES, keys(64), batch, 0)[name], score)
    np.testing.assert_array_equal(moving.scores(VARIABLES, keys(64), batch)[name], score)
  moved = moving.loss(VARIABLES, keys(64), batch, 0)['loss']
  assert np.mean(moved != still.scores(VARIABLES, keys(64), batch)['loss']) > 0.5


@pytest.mark.parametrize('max_shift', [1, 2])
def test_pictures_move_by_at_most_the_shift_in_every_direction_alike(max_shift):
  """Counts of the (2 m + 1)^2 moves within 5 standard deviations: false alarm rate 2e-5."""
  n, moves = 4000, (2 * max_shift + 1) ** 2
  moved = places(classifier(PIXELS, SAME, K, max_shift), dots(n, 3, 3)) - 3
  assert np.max(np.abs(moved)) == max_shift
  counts = np.bincount((moved + max_shift) @ [2 * max_shift + 1, 1], minlength=moves)
  assert np.all(np.abs(counts - n / moves) < 5 * np.sqrt(n / moves))


def test_the_shift_depends_on_the_key_of_the_example_alone():
  method = classifier(PIXELS, SAME, K, max_shift=2)
  here, there = places(method, dots(64, 3, 3)), places(method, dots(64, 2, 2))
  np.testing.assert_array_equal(here - there, 1)
  assert np.any(places(method, dots(64, 3, 3), seed=1) != here)


def test_what_comes_in_from_outside_is_the_lowest_level():
  """A picture that is all of the highest level: what is lost in a shift is its share of classes."""
  method, n = classifier(PIXELS, SAME, K, max_shift=1), 256
  x = np.full((n, H, W, 1), K - 1, np.uint8)

  def probability(label):
    batch = Batch(x, jnp.full(n, label), jnp.arange(n))
    return jnp.exp(-method.loss(VARIABLES, keys(n), batch, 0)['loss'])

  probabilities = np.asarray(jax.jit(jax.vmap(probability))(jnp.arange(H * W)))
  np.testing.assert_allclose(probabilities.sum(0), 1, rtol=1e-4)
  covered = np.sum(probabilities > 1e-3, axis=0)
  sizes = {(H - i) * (W - j) for i in (0, 1) for j in (0, 1)}
  assert set(covered) == sizes


def test_a_missing_label_is_nan():
  method, batch = classifier(PIXELS, SAME, K, max_shift=1), pictures(4, label=-1)
  for terms in (
    method.scores(VARIABLES, keys(4), batch),
    method.loss(VARIABLES, keys(4), batch, 0),
  ):
    assert np.all(np.isnan(terms['loss']))
    np.testing.assert_array_equal(terms['accuracy'], 0)
