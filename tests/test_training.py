"""The training step and loop: devices, dispatches, resumption, the average of the parameters."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaediff import data, latents, likelihoods, parallel, random, training
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


def observe(keys, x):
  """A tenth of the pixels are lost, others each time."""
  return jnp.where(random.uniform(keys, x.shape) < 0.1, 0, x)


@functools.cache
def initial_state(method: Method) -> training.TrainState:
  batch = Batch(SPLIT.x[:1], SPLIT.label[:1], np.zeros(1, np.int32))
  return jax.device_get(training.init(jax.random.key(0), method, OPTIMIZER, batch))


def train(
  num_devices, *, state=None, first_step=0, per_dispatch=5, method=None, parts=1, **options
):
  """Trains to NUM_STEPS; returns (final state, metrics {name: [steps]}) as NumPy arrays."""
  method = method or METHOD
  devices = jax.devices()[:num_devices]
  dispatch = training.make_dispatch(method, OPTIMIZER, observe, BATCH_SIZE, 0.9, devices, parts)
  start = parallel.replicate(initial_state(method) if state is None else state, devices)
  arguments = {'num_steps': NUM_STEPS, 'seed': 0} | options
  metrics = []
  for done in training.loop(
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
    metrics.append(parallel.unreplicate(done.metrics))
  joined = {name: np.concatenate([m[name] for m in metrics]) for name in metrics[0]}
  return parallel.unreplicate(done.state), joined


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
  *_, last = training.loop(
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
  for leaf in jax.tree.leaves(last.state):
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


@pytest.mark.parametrize('num_devices', [1, 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(reference, num_devices):
  state, metrics = train(num_devices, parts=4)
  assert relative_difference(reference[0].variables, state.variables) < 1e-5
  for name, values in reference[1].items():
    np.testing.assert_allclose(metrics[name], values, rtol=1e-4)


def test_the_state_is_donated():
  """Its buffers become those of the next state: there is never a second copy."""
  devices = jax.devices()[:2]
  dispatch = training.make_dispatch(METHOD, OPTIMIZER, lambda keys, x: x, BATCH_SIZE, 0.9, devices)
  state = parallel.replicate(initial_state(METHOD), devices)
  num_bytes = sum(leaf.addressable_data(0).nbytes for leaf in jax.tree.leaves(state))
  x, label = parallel.replicate((SPLIT.x, SPLIT.label), devices)
  indices = np.zeros((2, 3, BATCH_SIZE // 2), np.int32)
  arguments = state, np.int32(0), KEY, x, label, indices
  analysis = dispatch.lower(*arguments).compile().memory_analysis()
  assert analysis.alias_size_in_bytes == num_bytes
  dispatch(*arguments)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_steps_per_dispatch_change_nothing(reference):
  state, metrics = train(1, per_dispatch=20)
  assert relative_difference(reference[0].variables, state.variables) < 1e-6
  np.testing.assert_allclose(metrics['loss'], reference[1]['loss'], rtol=1e-6)


@pytest.mark.parametrize('num_steps', [0, 1, 4])
def test_examples_drawn_at_once_are_those_drawn_step_by_step(reference, monkeypatch, num_steps):
  """Of dispatches of five steps, which four do not divide: all five at once in `reference`."""
  monkeypatch.setattr(training, '_DRAWN_AT_ONCE', num_steps * BATCH_SIZE * SPLIT.x[0].size)
  state, metrics = train(1)
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


def remembering_method() -> Method:
  """METHOD with a carry: the last losses of all examples of the batch, in their order."""

  def init(key, batch):
    return METHOD.init(key, batch)._replace(carry=jnp.zeros(BATCH_SIZE))

  return METHOD._replace(init=init, update_carry=lambda carry, terms: terms['loss'])


def test_seeds_train_together_as_they_train_alone():
  """State, carry and metrics of seeds 3 and 0, each with its own order and key, on two devices."""
  method, devices, seeds = remembering_method(), jax.devices()[:2], [3, 0]
  keys = [jax.random.fold_in(KEY, seed) for seed in seeds]
  arguments = (method, OPTIMIZER, lambda keys, x: x, BATCH_SIZE, 0.9, devices)
  order = {'first_step': 0, 'num_steps': 10, 'steps_per_dispatch': 5, 'batch_size': BATCH_SIZE}

  def train_all(dispatch, state, key, seed, **options):
    start = parallel.replicate(state, devices)
    *_, last = training.loop(
      dispatch, start, key, SPLIT, seed=seed, devices=devices, **order, **options
    )
    return parallel.unreplicate((last.state, last.metrics))

  state = initial_state(method)
  stacked = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), state)
  one, both = (
    training.make_dispatch(*arguments, over_seeds=over_seeds) for over_seeds in (False, True)
  )
  alone = [train_all(one, state, key, seed) for key, seed in zip(keys, seeds, strict=True)]
  for options in ({}, {'resident_bytes': 0}):
    together = train_all(both, stacked, jnp.stack(keys), seeds, **options)
    for place, (expected, metrics) in enumerate(alone):
      mine, my_metrics = jax.tree.map(lambda leaf, place=place: leaf[place], together)
      assert relative_difference(mine.variables, expected.variables) < 1e-5
      assert relative_difference(mine.average, expected.average) < 1e-5
      for name, values in metrics.items():
        np.testing.assert_allclose(my_metrics[name], values, rtol=1e-4)
  assert relative_difference(alone[0][0].average, alone[1][0].average) > 1e-3


def failing_method(step: int, place: int, wrong: Callable) -> Method:
  """METHOD, but in one step the loss of one example is multiplied by wrong(0), else by wrong(1)."""

  def loss(variables, keys, batch, at):
    terms = METHOD.loss(variables, keys, batch, at)
    is_other = (batch.index != place) | (at != step - 1)
    x = is_other + 0 * jnp.sum(jax.tree.leaves(variables.params)[0])
    return terms | {'loss': wrong(x) * terms['loss']}

  return METHOD._replace(loss=loss)


# 1 at 1; at 0 the last has a value and no derivative.
WRONG = {'infinite': lambda x: 1 / x, 'nan': lambda x: x / x, 'gradient': jnp.sqrt}


@pytest.mark.parametrize(
  ('wrong', 'num_devices', 'backend'),
  [('infinite', 1, 'cpu'), ('nan', 4, 'cpu'), ('nan', 1, 'gpu')],
)
def test_a_step_that_is_not_finite_ends_training_before_it(
  wrong, num_devices, backend, monkeypatch
):
  """In the middle of the second dispatch; the rest of it and the dispatches after it do nothing."""
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  method = failing_method(8, 19, WRONG[wrong])
  failed, metrics = train(num_devices, method=method)
  assert failed.step == 7
  is_finite = np.isfinite([metrics['loss'], metrics['grad_norm']]).all(axis=0)
  assert is_finite[:7].all()
  assert not is_finite[7]
  before, _ = train(num_devices, method=method, num_steps=7, per_dispatch=7)
  assert relative_difference(before, failed) < 1e-6


@pytest.mark.parametrize('wrong', WRONG)
def test_the_example_at_fault_is_found(wrong):
  method, devices = failing_method(3, 19, WRONG[wrong]), jax.devices()[:4]
  dispatch = training.make_dispatch(
    method, OPTIMIZER, lambda keys, x: x, BATCH_SIZE, ema_decay=0.9, devices=devices
  )
  start = parallel.replicate(initial_state(method), devices)
  order = {'first_step': 0, 'num_steps': 5, 'steps_per_dispatch': 5, 'seed': 0}
  done = next(
    training.loop(dispatch, start, KEY, SPLIT, batch_size=BATCH_SIZE, devices=devices, **order)
  )
  assert parallel.unreplicate(done.state.step) == 2
  finite = parallel.unshard(done.finite[:, 2])
  assert np.flatnonzero(~finite).tolist() == ([] if wrong == 'gradient' else [19])
  # The examination sees gradients too, one example at a time.
  index = data.indices(0, 2 * BATCH_SIZE, BATCH_SIZE, len(SPLIT.x))
  examine = training.make_examination(method, lambda keys, x: x)
  terms = examine(parallel.unreplicate(done.state), KEY, SPLIT.x[index], SPLIT.label[index])
  assert np.flatnonzero(~np.isfinite(terms['grad_norm'])).tolist() == [19]
  kl = parallel.unreplicate(done.metrics)['kl'][2]
  np.testing.assert_allclose(np.mean(terms['kl']), kl, rtol=1e-5)


def test_a_state_at_another_step_is_left_alone():
  """What keeps a dispatch that was started before a failure is known from going on after it."""
  after, _ = train(1, first_step=5)
  assert_identical(after, initial_state(METHOD))


def test_the_norm_is_that_of_all_leaves_together():
  rng = np.random.default_rng(0)
  x, y, bias = (rng.normal(size=size).astype(np.float32) for size in ((16, 40), (16, 70), (3,)))

  @jax.jit
  def norm(x, y, bias):
    return training.norm({'kernel': (x.T @ y).T, 'bias': bias, 'scale': jnp.float32(2)})

  kernel = y.T.astype(np.float64) @ x
  exact = np.sqrt(np.sum(kernel**2) + np.sum(bias.astype(np.float64) ** 2) + 4)
  np.testing.assert_allclose(norm(x, y, bias), exact, rtol=1e-6)


def test_the_average_is_bias_corrected_from_the_first_step():
  decay, values = 0.999, np.random.default_rng(0).normal(size=8).astype(np.float32)
  average = jnp.float32(1.0)  # what stands there before the first step must not matter
  for n, value in enumerate(values, 1):
    average = training.update_average(average, jnp.float32(value), decay, jnp.int32(n))
    weights = decay ** np.arange(n - 1, -1, -1.0)
    np.testing.assert_allclose(average, weights @ values[:n] / weights.sum(), atol=1e-6)


def test_averaged_variables_are_those_to_evaluate(reference):
  state, _ = reference
  variables = training.averaged(state)
  assert_identical(variables.params, state.average)
  assert relative_difference(state.average, state.variables.params) > 0


def test_without_an_average_the_parameters_are_the_same(reference):
  batch = Batch(SPLIT.x[:1], SPLIT.label[:1], np.zeros(1, np.int32))
  state = training.init(jax.random.key(0), METHOD, OPTIMIZER, batch, is_averaged=False)
  state, metrics = train(1, state=jax.device_get(state))
  assert state.average is None
  assert training.averaged(state) is state.variables
  assert relative_difference(reference[0].variables, state.variables) < 1e-6
  np.testing.assert_allclose(metrics['loss'], reference[1]['loss'], rtol=1e-6)
