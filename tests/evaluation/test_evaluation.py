"""A split is evaluated whole, each example once, whatever the batch size and the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaediff import data, parallel
from vaediff.evaluation import likelihood, samples
from vaediff.methods.base import Method, Variables

N = 37
SPLIT = data.Split('test', np.arange(N, dtype=np.uint8).reshape(N, 1, 1, 1), np.arange(N) - 1)
KEY = jax.random.key(0)


def bound(variables, keys, batch):
  x = batch.x.reshape(-1).astype(jnp.float32)
  noise = jax.vmap(lambda key: jax.random.normal(key))(keys)
  return {'elbo': variables.params * x + noise, 'index': batch.index, 'label': batch.label}


def sample(variables, keys, label):
  draws = jax.vmap(lambda key: jax.random.bits(key, (2, 2, 1), jnp.uint8))(keys)
  return draws + label.astype(jnp.uint8)[:, None, None, None]


METHOD = Method(init=None, loss=None, sample=sample, log_likelihood_bound=bound)


def evaluate(batch_size, num_devices, observe=lambda keys, x: x):
  devices = jax.devices()[:num_devices]
  variables = parallel.replicate(Variables(jnp.float32(2.0)), devices)
  return likelihood.make_bound(METHOD, observe, batch_size, devices)(variables, KEY, SPLIT)


@pytest.mark.parametrize(('batch_size', 'num_devices'), [(37, 1), (5, 1), (8, 8), (16, 4), (64, 2)])
def test_every_example_once_with_its_own_noise(batch_size, num_devices):
  terms, reference = evaluate(batch_size, num_devices), evaluate(1, 1)
  np.testing.assert_array_equal(terms['index'], np.arange(N))
  np.testing.assert_array_equal(terms['label'], np.arange(N) - 1)
  np.testing.assert_allclose(terms['elbo'], reference['elbo'], rtol=1e-6)
  assert len(np.unique(reference['elbo'] - 2 * np.arange(N))) == N


def test_examples_are_observed_before_they_are_evaluated():
  plain = evaluate(8, 1)
  terms = evaluate(8, 2, observe=lambda keys, x: x + 1)
  np.testing.assert_allclose(terms['elbo'], plain['elbo'] + 2, rtol=1e-5)


def test_summary_has_mean_standard_error_and_unit():
  terms = {'elbo': np.array([-1.0, -2.0, -6.0]), 'kl': np.array([0.5, 0.5, 0.5])}
  summary = likelihood.summarize(terms, dimensions=4)
  assert summary['nll_bound'] == {
    'value': 3.0,
    'stderr': pytest.approx(np.sqrt(7 / 3)),
    'unit': 'nats',
  }
  assert summary['bits_per_dim']['value'] == pytest.approx(3 / (4 * np.log(2)))
  assert summary['bits_per_dim']['stderr'] == pytest.approx(np.sqrt(7 / 3) / (4 * np.log(2)))
  assert summary['kl'] == {'value': 0.5, 'stderr': 0.0, 'unit': 'nats'}


@pytest.mark.parametrize(('batch_size', 'num_devices'), [(4, 1), (8, 8), (16, 2)])
def test_samples_do_not_depend_on_batches_or_devices(batch_size, num_devices):
  label = np.arange(10, dtype=np.int32)

  def draw(batch_size, num_devices):
    devices = jax.devices()[:num_devices]
    variables = parallel.replicate(Variables(jnp.float32(0)), devices)
    return samples.make_sampler(METHOD, batch_size, devices)(variables, KEY, label)

  x = draw(batch_size, num_devices)
  assert x.shape == (10, 2, 2, 1)
  np.testing.assert_array_equal(x, draw(1, 1))
