"""The training step and loop: devices, dispatches, resumption, the average of the parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaediff import data, latents, likelihoods, parallel, training
from vaediff.methods.base import Batch, Method, Variables
from vaediff.methods.vae import vae
from vaediff.networks import mlp

SHAPE, NUM_STEPS, BATCH_SIZE = (8, 8, 1), 20, 32
SPLIT = data.Split(
  'train',
  np.random.default_rng(0).integers(0, 17, (100, *SHAPE)).astype(np.uint8),
  np.zeros(100, np.int32),
)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(100.0), optax.adam(1e-3))
KEY = jax.random.key(7)


def make_method() -> Method:
  return vae(
    mlp.encoder((16,), 6),
    mlp.decoder((16,), (8, 8, 2)),
    likelihoods.discretized_logistic(17),
    latents.DIAGONAL,
    latent_dim=3,
    num_levels=17,
  )


@functools.cache
def initial_state(method: Method) -> training.TrainState:
  batch = Batch(SPLIT.x[:1], SPLIT.label[:1], np.zeros(1, np.int32))
  return jax.device_get(training.init(jax.random.key(0), method, OPTIMIZER, batch))


def train(num_devices, *, state=None, first_step=0, per_dispatch=5, method=None, **options):
  """Trains to NUM_STEPS; returns (final state, metrics {name: [steps]}) as NumPy arrays."""
  method = method or METHOD
  devices = jax.devices()[:num_devices]
  dispatch = training.make_dispatch(
    method, OPTIMIZER, lambda keys, x: x, BATCH_SIZE, ema_decay=0.9, devices=devices
  )
  start = parallel.replicate(initial_state(method) if state is None else state, devices)
  arguments = {'num_steps': NUM_STEPS, 'seed': 0} | options
  metrics = []
  for _, replicated, values in training.loop(  # noqa: B007 (the last one is used)
    dispatch,
    start,
    KEY,
    SPLIT,
    first_step=first_step,
    steps_per_dispatch=per_dispatch,
    batch_size=BATCH_SIZE,
    devices=devices,
    **arguments,
  ):
    metrics.append(parallel.unreplicate(values))
  joined = {name: np.concatenate([m[name] for m in metrics]) for name in metrics[0]}
  return parallel.unreplicate(replicated), joined


METHOD = make_method()


@pytest.fixture(scope='module')
def reference():
  return train(1)


def relative_difference(a, b):
  """|a - b| / |a| over all parameters together."""

  def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])

  a, b = flat(a), flat(b)
  return np.linalg.norm(a - b) / np.linalg.norm(a)


def assert_identical(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize('num_devices', [2, 8])
def test_the_number_of_devices_changes_sums_only(reference, num_devices):
  state, metrics = train(num_devices)
  assert relative_difference(reference[0].variables, state.variables) < 1e-5
  np.testing.assert_allclose(metrics['loss'], reference[1]['loss'], rtol=1e-5)


def test_every_device_has_the_same_parameters():
  devices = jax.devices()[:4]
  dispatch = training.make_dispatch(
    METHOD, OPTIMIZER, lambda keys, x: x, BATCH_SIZE, ema_decay=0.9, devices=devices
  )
  *_, (_, state, _) = training.loop(
    dispatch,
    parallel.replicate(initial_state(METHOD), devices),
    KEY,
    SPLIT,
    first_step=0,
    num_steps=NUM_STEPS,
    steps_per_dispatch=5,
    batch_size=BATCH_SIZE,
    seed=0,
    devices=devices,
  )
  for leaf in jax.tree.leaves(state):
    assert np.all(np.asarray(leaf) == np.asarray(leaf)[:1])


def test_training_lowers_the_loss(reference):
  loss = reference[1]['loss']
  assert loss.shape == (NUM_STEPS,)
  assert loss[-5:].mean() < 0.98 * loss[:5].mean()


def test_resumed_equals_uninterrupted(reference):
  half, _ = train(1, num_steps=10)
  assert half.step == 10
  state, metrics = train(1, state=half, first_step=10)
  assert_identical(state, reference[0])
  np.testing.assert_array_equal(metrics['loss'], reference[1]['loss'][10:])


def test_steps_per_dispatch_change_nothing(reference):
  state, metrics = train(1, per_dispatch=20)
  assert relative_difference(reference[0].variables, state.variables) < 1e-6
  np.testing.assert_allclose(metrics['loss'], reference[1]['loss'], rtol=1e-6)


@pytest.mark.parametrize('num_devices', [1, 4])
def test_data_that_do_not_fit_on_the_devices_are_the_same_data(reference, num_devices):
  state, metrics = train(num_devices, resident_bytes=0)
  assert relative_difference(reference[0].variables, state.variables) < 1e-5
  np.testing.assert_allclose(metrics['loss'], reference[1]['loss'], rtol=1e-5)


def test_another_seed_trains_on_another_order(reference):
  _, metrics = train(1, seed=1)
  assert np.all(metrics['loss'] != reference[1]['loss'])


def counting_method() -> Method:
  """A method whose carry records the terms of the whole batch: here the keys' first draws."""

  def loss(variables, keys, batch, step):
    draw = jax.vmap(lambda key: jax.random.uniform(key))(keys)
    value = jnp.sum(variables.params['w'] ** 2)
    return {'loss': value + 0 * draw, 'draw': draw, 'index': batch.index.astype(jnp.float32)}

  return METHOD._replace(
    init=lambda key, batch: Variables({'w': jnp.ones(2)}, jnp.zeros((2, BATCH_SIZE))),
    loss=loss,
    update_carry=lambda carry, terms: jnp.stack([terms['index'], carry[1] + terms['draw']]),
  )


def test_the_carry_sees_the_whole_batch_in_order_on_any_number_of_devices():
  method = counting_method()
  (one, _), (four, _) = train(1, method=method), train(4, method=method)
  np.testing.assert_array_equal(four.variables.carry[0], np.arange(BATCH_SIZE))
  np.testing.assert_array_equal(one.variables.carry, four.variables.carry)
  assert len(np.unique(one.variables.carry[1])) == BATCH_SIZE


def test_the_average_is_bias_corrected_from_the_first_step():
  decay, values = 0.999, np.random.default_rng(0).normal(size=8).astype(np.float32)
  average = jnp.float32(1.0)  # what stands there before the first step must not matter
  for n, value in enumerate(values, 1):
    average = training.update_average(average, jnp.float32(value), decay, jnp.int32(n))
    weights = decay ** np.arange(n - 1, -1, -1.0)
    np.testing.assert_allclose(average, weights @ values[:n] / weights.sum(), atol=1e-6)
  assert training.update_average(average, jnp.float32(5.0), 0, jnp.int32(3)) == 5


def test_averaged_variables_are_those_to_evaluate(reference):
  state, _ = reference
  variables = training.averaged(state)
  assert_identical(variables.params, state.average)
  assert relative_difference(state.average, state.variables.params) > 0
