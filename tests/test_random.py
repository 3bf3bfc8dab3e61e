"""Per-example keys: independent of the batch, distinct along every axis they are folded from."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from vaediff import random


def data(keys):
  return np.asarray(jax.random.key_data(keys))


def test_example_keys_do_not_depend_on_the_split_of_the_batch():
  key = jax.random.key(3)
  whole = random.example_keys(key, 5, jnp.arange(8))
  halves = [random.example_keys(key, 5, jnp.arange(8)[part]) for part in (slice(4), slice(4, 8))]
  np.testing.assert_array_equal(data(whole), np.concatenate([data(half) for half in halves]))


def test_example_keys_differ_by_seed_step_and_example():
  seen = {
    tuple(row)
    for seed in range(3)
    for step in range(3)
    for row in data(random.example_keys(jax.random.key(seed), step, jnp.arange(10)))
  }
  assert len(seen) == 90


def test_split_takes_one_key_or_many():
  keys = jax.random.split(jax.random.key(0), 4)
  first, second = random.split(keys)
  alone_first, alone_second = random.split(keys[2])
  np.testing.assert_array_equal(data(first[2]), data(alone_first))
  np.testing.assert_array_equal(data(second[2]), data(alone_second))
  assert not np.array_equal(data(first), data(second))


def test_noise_of_an_example_depends_on_its_key_alone():
  keys = jax.random.split(jax.random.key(0), 4)
  for draw in (random.normal, random.logistic, random.uniform):
    whole = draw(keys, (4, 3, 2))
    np.testing.assert_array_equal(whole[1:2], draw(keys[1:2], (1, 3, 2)))


def test_noise_has_its_distribution():
  # Kolmogorov-Smirnov at p = 1e-6 three times, chi-squared once: false alarm rate 4e-6.
  keys = jax.random.split(jax.random.key(1), 1000)
  for draw, cdf in (
    (random.normal, scipy.stats.norm.cdf),
    (random.logistic, scipy.stats.logistic.cdf),
    (random.uniform, scipy.stats.uniform.cdf),
  ):
    x = np.asarray(draw(keys, (1000, 20))).reshape(-1)
    assert scipy.stats.kstest(x, cdf).pvalue > 1e-6
  counts = np.bincount(random.integers(keys, 1, 6), minlength=6)
  assert counts[0] == 0
  assert scipy.stats.chisquare(counts[1:]).pvalue > 1e-6


def test_numbers_of_16_bits_are_uniform_and_the_examples_own():
  """Chi-squared of both bytes at four places, each p = 1e-7: false alarm rate 8e-7, over seeds."""
  keys = jax.random.split(jax.random.key(2), 2000)
  drawn = np.asarray(random.bits_16(keys, 4))
  assert drawn.shape == (2000, 4)
  for byte in (drawn & 0xFF, drawn >> 8):
    for place in byte.T:
      assert scipy.stats.chisquare(np.bincount(place, minlength=256)).pvalue > 1e-7
  np.testing.assert_array_equal(drawn[5:6], random.bits_16(keys[5:6], 4))
  assert [random.bits_16(keys[:2], size).shape for size in (1, 5, 784)] == [
    (2, 1),
    (2, 5),
    (2, 784),
  ]
