"""Samplers of times: unbiased, spread as they say, and of less variance where they promise it."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaediff import time_sampling

T = 20


def history(state, level):
  """The terms of one level, the oldest first."""
  count, terms = int(state['count'][level]), np.asarray(state['terms'][level])
  if count < time_sampling.HISTORY:
    return terms[:count]
  return np.roll(terms, -(count % time_sampling.HISTORY))


def warm(terms):
  """The state of `importance` after HISTORY terms for each level, all of them terms[level]."""
  terms = jnp.asarray(terms, jnp.float32)
  return {
    'terms': jnp.broadcast_to(terms[:, None], (len(terms), time_sampling.HISTORY)),
    'count': jnp.full(len(terms), time_sampling.HISTORY),
  }


def draws(sampler, state, n, seed=0):
  return sampler.draw(state, jax.random.split(jax.random.key(seed), n), jnp.arange(n))


def estimate(name, state_key, f, batch_size):
  """The mean of weight f(u) over one batch."""
  sampler = time_sampling.make(name, T)
  state = warm(f((jnp.arange(T) + 0.5) / T)) if name == 'importance' else sampler.init(state_key)
  keys = jax.random.split(jax.random.fold_in(state_key, 1), batch_size)
  u, weight = sampler.draw(state, keys, jnp.arange(batch_size))
  return jnp.mean(weight * f(u))


def estimates(name, f, batch_size, repeats=4000):
  keys = jax.random.split(jax.random.key(3), repeats)
  return np.asarray(jax.jit(jax.vmap(lambda key: estimate(name, key, f, batch_size)))(keys))


def smooth(u):
  return jnp.exp(2 * u)


def peaked(u):
  return jnp.exp(-30 * u)


@pytest.mark.parametrize('name', time_sampling.SAMPLERS)
@pytest.mark.parametrize('f', [smooth, peaked])
def test_the_weighted_mean_is_the_integral(name, f):
  """4,000 batches of 6 within 5 standard errors: false alarm rate 6e-7 each."""
  mean = estimates(name, f, batch_size=6)
  exact = {smooth: np.expm1(2) / 2, peaked: -np.expm1(-30) / 30}[f]
  assert abs(mean.mean() - exact) < 5 * mean.std() / np.sqrt(len(mean))


def test_each_sampler_has_the_smaller_variance_that_it_is_for():
  def variance(name, f):
    return estimates(name, f, batch_size=8, repeats=1000).var()

  # To leading order (f(1) - f(0))^2 / (12 n^2), against Var(f) / n: an eighth, at n = 8.
  assert variance('antithetic', smooth) < variance('uniform', smooth) / 5
  assert variance('importance', peaked) < variance('uniform', peaked) / 5


@pytest.mark.parametrize('n', [0, 1, 3, 8])
def test_antithetic_times_are_one_in_each_stratum(n):
  sampler = time_sampling.antithetic()
  for offset in (0.0, 0.1, 0.777, 1 - 2**-23):
    u, weight = draws(sampler, jnp.float32(offset), 2**n)
    assert np.all((u >= 0) & (u < 1))
    np.testing.assert_array_equal(np.sort(np.floor(u * 2**n)), np.arange(2**n))
    # All of them at the same place of their stratum, that of the offset.
    np.testing.assert_allclose(u * 2**n % 1, offset * 2**n % 1, atol=2.0 ** (n - 23))
    np.testing.assert_array_equal(weight, 1)


def test_antithetic_times_do_not_depend_on_the_split_over_devices():
  sampler = time_sampling.antithetic()
  keys, index = jax.random.split(jax.random.key(0), 24), jnp.arange(24)
  state = sampler.init(jax.random.key(1))
  whole, _ = sampler.draw(state, keys, index)
  for parts in (2, 3, 8):
    pieces = [
      sampler.draw(state, k, i)[0]
      for k, i in zip(keys.reshape(parts, -1), index.reshape(parts, -1), strict=True)
    ]
    np.testing.assert_array_equal(whole, np.concatenate(pieces))


def test_the_antithetic_offset_advances_by_the_golden_ratio():
  """So that after 89 steps, a Fibonacci number, one offset lies in each 89th but for a few."""
  sampler = time_sampling.antithetic()
  state = sampler.init(jax.random.key(0))
  offsets = [float(state)]
  for _ in range(88):
    state = sampler.update(state, None, None)
    offsets.append(float(state))
  exact = (offsets[0] + np.arange(89) * (np.sqrt(5) - 1) / 2) % 1
  np.testing.assert_allclose(offsets, exact, atol=1e-4)
  gaps = np.diff(np.sort([*offsets, min(offsets) + 1]))
  assert gaps.min() > 0.6 / 89
  assert gaps.max() < 1.7 / 89


def test_van_der_corput():
  np.testing.assert_array_equal(
    time_sampling.van_der_corput(jnp.arange(8)), [0, 0.5, 0.25, 0.75, 0.125, 0.625, 0.375, 0.875]
  )
  # The bits of 2^24 - 1, mirrored, are the largest number below 1.
  assert time_sampling.van_der_corput(jnp.array(2**24 - 1)) == np.float32(1 - 2**-24)


def test_importance_is_uniform_until_each_level_has_its_history():
  sampler = time_sampling.importance(4)
  state = warm([1.0, 2.0, 3.0, 4.0])
  for level in range(4):
    cold = {**state, 'count': state['count'].at[level].add(-1)}
    np.testing.assert_array_equal(time_sampling.importance_probability(cold), 0.25)
    np.testing.assert_array_equal(draws(sampler, cold, 8)[1], 1)
  assert time_sampling.importance_probability(state)[0] < 0.2


def test_importance_without_any_loss_is_uniform():
  np.testing.assert_array_equal(time_sampling.importance_probability(warm([0.0] * 4)), 0.25)


def test_importance_is_nichol_and_dhariwal():
  """p_t in proportion to sqrt(E[L_t^2]) (their eq. 18), a thousandth of it uniform."""
  terms = np.random.default_rng(0).normal(size=(5, time_sampling.HISTORY)).astype(np.float32)
  state = {'terms': jnp.asarray(terms), 'count': jnp.full(5, 99)}
  root = np.sqrt(np.mean(terms.astype(np.float64) ** 2, axis=1))
  exact = 0.999 * root / root.sum() + 0.001 / 5
  np.testing.assert_allclose(time_sampling.importance_probability(state), exact, rtol=1e-5)


def test_importance_draws_its_probabilities_and_weighs_by_their_inverse():
  """Counts of 2^16 draws within 5 standard deviations: false alarm rate 6e-7 for each level."""
  terms, n = [0.0, 1.0, 5.0, 0.1], 2**16
  state, sampler = warm(terms), time_sampling.importance(4)
  u, weight = draws(sampler, state, n)
  level = np.floor(np.asarray(u) * 4).astype(int)
  probability = 0.999 * np.array(terms) / np.sum(terms) + 0.001 / 4
  np.testing.assert_allclose(weight, 1 / (4 * probability[level]), rtol=1e-5)
  deviation = np.sqrt(n * probability * (1 - probability))
  assert np.all(np.abs(np.bincount(level, minlength=4) - n * probability) < 5 * deviation)
  # Inside its level u is uniform: mean 1/2, variance 1/12.
  place = np.asarray(u) * 4 - level
  assert abs(place.mean() - 0.5) < 5 / np.sqrt(12 * n)


@pytest.mark.parametrize('num_levels', [7, 999, 3000, 4000])
def test_importance_stays_inside_the_level_it_has_drawn(num_levels, monkeypatch):
  """At any place in it: the level of u is that of the weight, whatever the rounding."""
  sampler = time_sampling.importance(num_levels)
  state = warm(np.arange(num_levels) + 1.0)  # every level has a weight of its own
  probability = time_sampling.importance_probability(state)
  keys = jax.random.split(jax.random.key(0), num_levels)

  def draw(middle, place):
    values = iter([middle, place])
    monkeypatch.setattr(time_sampling.random, 'uniform', lambda *_: next(values))
    return sampler.draw(state, keys, None)

  middle = np.float32(np.cumsum(probability) - 0.5 * probability)
  for place in (0.0, 1e-5, 0.5, 1 - 2**-24):
    u, weight = jax.jit(draw)(middle, jnp.full(num_levels, place, jnp.float32))
    np.testing.assert_array_equal(jnp.floor(u * num_levels), np.arange(num_levels))
    np.testing.assert_allclose(weight, 1 / (num_levels * probability), rtol=1e-6)


@pytest.mark.parametrize('batch_size', [1, 16, 100])
def test_the_history_is_that_of_a_plain_loop(batch_size):
  """The last ten terms of each level in order, also where a batch has more than ten of them."""
  sampler, rng = time_sampling.importance(3), np.random.default_rng(0)
  state = sampler.init(jax.random.key(0))
  exact = [collections.deque(maxlen=10) for _ in range(3)]
  update = jax.jit(sampler.update)
  for _ in range(40 if batch_size == 1 else 4):
    level = rng.choice(3, size=batch_size, p=[0.8, 0.15, 0.05])
    term = rng.normal(size=batch_size).astype(np.float32)
    for at, value in zip(level, term, strict=True):
      exact[at].append(value)
    state = update(state, jnp.float32((level + 0.3) / 3), term)
  assert batch_size < 100 or np.sum(level == 0) > 2 * time_sampling.HISTORY
  for level in range(3):
    np.testing.assert_array_equal(history(state, level), exact[level])


def test_unknown_names_are_refused():
  with pytest.raises(ValueError, match="times is 'nonsense'; it is one of uniform, antithetic"):
    time_sampling.make('nonsense', T)
