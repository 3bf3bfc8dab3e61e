"""A split is evaluated whole, each example once, whatever the batch size and the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaediff import data, gaussian, parallel
from vaediff.evaluation import likelihood, samples, split
from vaediff.methods.base import Variables

N = 37
SPLIT = data.Split('test', np.arange(N, dtype=np.uint8).reshape(N, 1, 1, 1), np.arange(N) - 1)
KEY = jax.random.key(0)


def bound(variables, keys, batch):
  x = batch.x.reshape(-1).astype(jnp.float32)
  noise = jax.vmap(lambda key: jax.random.normal(key))(keys)
  return {'elbo': variables.params * x + noise, 'index': batch.index, 'label': batch.label}


def sample(variables, keys, label):
  draws = jax.vmap(lambda key: jax.random.bits(key, (2, 2, 1), jnp.uint8))(keys)
  return {'x': draws + label.astype(jnp.uint8)[:, None, None, None], 'label': label}


def evaluate(batch_size, num_devices, f=bound, observe=lambda keys, x: x, key=KEY):
  devices = jax.devices()[:num_devices]
  variables = parallel.replicate(Variables(jnp.float32(2.0)), devices)
  return split.make_map(f, observe, batch_size, devices)(variables, key, SPLIT)


@pytest.mark.parametrize(('batch_size', 'num_devices'), [(37, 1), (5, 1), (8, 8), (16, 4), (64, 2)])
def test_every_example_once_with_its_own_noise(batch_size, num_devices):
  terms, reference = evaluate(batch_size, num_devices), evaluate(1, 1)
  np.testing.assert_array_equal(terms['index'], np.arange(N))
  np.testing.assert_array_equal(terms['label'], np.arange(N) - 1)
  np.testing.assert_allclose(terms['elbo'], reference['elbo'], rtol=1e-6)
  assert len(np.unique(reference['elbo'] - 2 * np.arange(N))) == N
  assert all(isinstance(term, np.ndarray) for term in terms.values())


def test_another_key_is_other_noise():
  assert np.all(evaluate(8, 1)['elbo'] != evaluate(8, 1, key=jax.random.key(1))['elbo'])


def test_examples_are_observed_before_they_are_evaluated():
  plain = evaluate(8, 1)
  terms = evaluate(8, 2, observe=lambda keys, x: x + 1)
  np.testing.assert_allclose(terms['elbo'], plain['elbo'] + 2, rtol=1e-5)


def test_the_noise_of_observing_is_not_that_of_the_method():
  """Both are uniform bits of the example's key: equal ones would show as a difference of 0."""

  def observe(keys, x):
    return jax.vmap(lambda key: jax.random.bits(key, (1, 1, 1), jnp.uint8))(keys)

  def difference(variables, keys, batch):
    return batch.x - observe(keys, batch.x)

  assert np.mean(evaluate(8, 2, difference, observe) != 0) > 0.8


@pytest.mark.parametrize('value', [jnp.nan, jnp.inf, -jnp.inf])
def test_what_is_not_finite_is_named_and_stops(value):
  def broken(variables, keys, batch):
    x = batch.x.astype(jnp.float32)
    return {'fine': x, 'kl': jnp.where((x == 3) | (x == 20), value, x)}

  with pytest.raises(FloatingPointError, match=r'kl is not finite for test examples \[ 3 20\]'):
    evaluate(8, 2, broken)


def test_the_log_variance_of_a_point_passes():
  def point(variables, keys, batch):
    return gaussian.Normal(jnp.zeros(batch.index.shape), jnp.full(batch.index.shape, -jnp.inf))

  np.testing.assert_array_equal(evaluate(8, 2, point).log_var, np.full(N, -np.inf))


def test_summary_of_a_bound_has_mean_standard_error_and_unit():
  terms = {'elbo': np.array([-1.0, -2.0, -6.0]), 'kl': np.array([0.5, 0.5, 0.5])}
  summary = likelihood.summarize_bound(terms, dimensions=4)
  assert summary['nll_bound'] == {
    'value': 3.0,
    'stderr': pytest.approx(np.sqrt(7 / 3)),
    'unit': 'nats',
  }
  assert summary['bits_per_dim']['value'] == pytest.approx(3 / (4 * np.log(2)))
  assert summary['bits_per_dim']['stderr'] == pytest.approx(np.sqrt(7 / 3) / (4 * np.log(2)))
  assert summary['bits_per_dim']['unit'] == 'bits/dim'
  assert summary['kl'] == {'value': 0.5, 'stderr': 0.0, 'unit': 'nats'}
  assert 'elbo' not in summary


def test_summary_of_scores_has_their_units_and_no_error_for_one_example():
  terms = {'loss': np.array([1.0, 3.0]), 'accuracy': np.array([0.0, 1.0])}
  summary = likelihood.summarize(terms, {'accuracy': '1'})
  assert summary['loss'] == {'value': 2.0, 'stderr': pytest.approx(1.0), 'unit': 'nats'}
  assert summary['accuracy'] == {'value': 0.5, 'stderr': pytest.approx(0.5), 'unit': '1'}
  one = likelihood.summarize({'loss': np.array([1.0])}, {})
  assert one['loss']['value'] == 1
  assert np.isnan(one['loss']['stderr'])


def test_sums_are_in_float64():
  """The mean of 2^16 numbers 1000 + i / 2^16 in float32 is off by more than their distance."""
  values = np.float32(1000 + np.arange(2**16) / 2**16)
  exact = np.mean(values.astype(np.float64))
  assert likelihood.summarize({'a': values}, {})['a']['value'] == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(('batch_size', 'num_devices'), [(4, 1), (8, 8), (16, 2)])
def test_samples_do_not_depend_on_batches_or_devices(batch_size, num_devices):
  label = np.arange(10, dtype=np.int32) - 1

  def draw(batch_size, num_devices):
    devices = jax.devices()[:num_devices]
    variables = parallel.replicate(Variables(jnp.float32(0)), devices)
    return samples.make_sampler(sample, batch_size, devices)(variables, KEY, label)

  drawn, reference = draw(batch_size, num_devices), draw(1, 1)
  assert drawn['x'].shape == (10, 2, 2, 1)
  assert len(np.unique(drawn['x'][:, 0, 0, 0])) > 5
  np.testing.assert_array_equal(drawn['label'], label)
  np.testing.assert_array_equal(drawn['x'], reference['x'])
