"""Training: the state, the step, and the loop over dispatches of several steps each.

The step is data parallel over all devices; `lax.scan` runs steps_per_dispatch of them in one call,
so that buffers are reused and the host is out of the way.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vaediff import data, parallel, random
from vaediff.methods.base import Batch, Method, Variables

# The examples of several steps are drawn at once, few large operations in place of many small ones:
# of as many steps as divide those of a dispatch and have this number of values together, at most,
# on each device and of each seed.
_DRAWN_AT_ONCE = 2**20


class TrainState(NamedTuple):
  """Everything that a step reads and changes. There is no key in it: keys are folded from `step`.

  `step` counts the steps whose loss and gradient were finite: at the first that is not, the state
  stays what it was before it, and no later step changes it.

  step: int32 scalar, the number of steps done.
  variables: parameters and carry of the method.
  opt_state: of the optax optimiser.
  average: the exponential moving average of the parameters, exact from the first step on, or
    None where none is kept.
  """

  step: jax.Array
  variables: Variables
  opt_state: Any
  average: Any


class Progress(NamedTuple):
  """What there is after a dispatch, on the devices.

  step: the number of steps done.
  state: the state after them; where one of them went wrong, the state before that one.
  metrics: {name: [d, K]}, of the K steps of this dispatch.
  finite: [d, K, b], whether the terms of each example were finite in each of these steps.

  Over S seeds: [d, S, K] and [d, S, K, b].
  """

  step: int
  state: TrainState
  metrics: dict[str, jax.Array]
  finite: jax.Array


@functools.partial(jax.jit, static_argnums=(1, 2, 4))
def init(
  key,
  method: Method,
  optimizer: optax.GradientTransformation,
  batch: Batch,
  is_averaged: bool = True,
) -> TrainState:
  """The state before the first step.

  batch: any batch with the right shapes. is_averaged: whether an average of the parameters is kept.
  """
  variables = method.init(key, batch)
  params = variables.params
  average = params if is_averaged else None
  return TrainState(jnp.zeros((), jnp.int32), variables, optimizer.init(params), average)


def averaged(state: TrainState) -> Variables:
  """The variables to evaluate and to sample with: averaged parameters, current carry.

  Where no average is kept, the current parameters.
  """
  if state.average is None:
    return state.variables
  return Variables(state.average, state.variables.carry)


def make_dispatch(
  method: Method,
  optimizer: optax.GradientTransformation,
  observe: Callable,
  batch_size: int,
  ema_decay: float,
  devices: Sequence[jax.Device],
  num_microbatches: int = 1,
  over_seeds: bool = False,
) -> Callable:
  """Several training steps in one call on all devices.

  observe(keys [B], x [B, ...]) -> x: how an example is drawn from its stored form, each time anew
    (dynamic binarisation), or the identity.
  batch_size: of the global batch, a multiple of the number of devices.
  ema_decay: of the parameters' moving average, where the state has one.
  num_microbatches: each device computes the gradient of its share in so many equal parts, one after
    the other, and adds them up: less memory, and the same step but for the rounding of sums.
  over_seeds: trains S seeds at once, each on its own with its own key and examples: the state,
    key, indices, metrics and `finite` then have an axis [S], behind that of the devices.

  Returns dispatch(state, first_step, key, x [d, N, ...], label [d, N], indices [d, K, b]) ->
  (state, metrics {name: [d, K]}, finite [d, K, b]), where b = batch_size / D: the K steps that
  follow the first first_step, on the examples with these indices. State and metrics are the same on
  every device; `finite` is whether the terms of an example are. The state passed in is donated.

  A step with a metric that is not finite, and all steps after it, leave the state as it was; so do
  all steps where state.step is not first_step to begin with.
  """
  share = batch_size // len(devices)

  def own_index():
    """Where this device's examples are in the global batch, [b]."""
    return parallel.device_index() * share + jnp.arange(share)

  def step(state: TrainState, inputs):
    expected_step, loss_keys, x, label = inputs
    batch = Batch(x, label, own_index())

    def mean_loss(params, keys, batch):
      variables = Variables(params, state.variables.carry)
      terms = method.loss(variables, keys, batch, state.step)
      return jnp.sum(terms['loss']) / batch_size, terms

    gradient = jax.grad(mean_loss, has_aux=True)
    if num_microbatches > 1:
      gradient = accumulated(gradient, num_microbatches)
    grads, terms = gradient(state.variables.params, loss_keys, batch)
    grads = parallel.sum_over_devices(grads)
    metrics = parallel.sum_over_devices({k: jnp.sum(v) / batch_size for k, v in terms.items()})
    metrics['grad_norm'] = norm(grads)
    all_terms = parallel.gather_over_devices(terms) if method.update_carry else None

    def update(state: TrainState) -> TrainState:
      params, carry = state.variables.params, state.variables.carry
      updates, opt_state = optimizer.update(grads, state.opt_state, params)
      params = optax.apply_updates(params, updates)
      if method.update_carry is not None:
        carry = method.update_carry(carry, all_terms)
      average = state.average
      if average is not None:
        average = update_average(average, params, ema_decay, state.step + 1)
      return TrainState(state.step + 1, Variables(params, carry), opt_state, average)

    proceeds = (state.step == expected_step) & is_finite(metrics)
    return update_if(proceeds, update, state), (metrics, is_finite(terms))

  def dispatch(state, first_step, key, x, label, indices):
    def keys_of(expected_step):
      return random.split(random.example_keys(key, expected_step, own_index()))

    def steps(state, inputs):
      """As many as draw their examples at once."""
      expected_steps, observe_keys, loss_keys, index = inputs
      pictures = observe(observe_keys.reshape(-1), x[index.reshape(-1)])
      pictures = pictures.reshape(*index.shape, *pictures.shape[1:])
      return jax.lax.scan(step, state, (expected_steps, loss_keys, pictures, label[index]))

    num_steps = len(indices)
    expected_steps = first_step + jnp.arange(num_steps, dtype=jnp.int32)
    inputs = expected_steps, *jax.vmap(keys_of)(expected_steps), indices
    at_most = max(_DRAWN_AT_ONCE // (indices[0].size * x[0].size), 1)
    at_once = max(n for n in range(1, min(at_most, num_steps) + 1) if num_steps % n == 0)
    in_parts = jax.tree.map(lambda a: a.reshape(-1, at_once, *a.shape[1:]), inputs)
    state, outputs = jax.lax.scan(steps, state, in_parts)
    metrics, finite = jax.tree.map(lambda a: a.reshape(num_steps, *a.shape[2:]), outputs)
    return state, metrics, finite

  if over_seeds:
    dispatch = jax.vmap(dispatch, in_axes=(0, None, 0, None, None, 0))
  return parallel.pmap(dispatch, devices, in_axes=(0, None, None, 0, 0, 0), donate_argnums=0)


def accumulated(gradient: Callable, num_parts: int) -> Callable:
  """gradient(params, *batch [B, ...]) -> (sum over the batch, [B, ...] of each), part by part."""

  def in_parts(params, *batch):
    def add(total, part):
      grads, each = gradient(params, *part)
      return optax.tree.add(total, grads), each

    parts = jax.tree.map(lambda a: a.reshape(num_parts, -1, *a.shape[1:]), batch)
    total, each = jax.lax.scan(add, optax.tree.zeros_like(params), parts)
    return total, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), each)

  return in_parts


def update_if(proceeds, update: Callable, state: TrainState) -> TrainState:
  """update(state), or the state as it is.

  On CPU by a condition: a selection between the two would read and write the state once more (as it
  does over several seeds, of which each has a condition of its own). Elsewhere by a selection,
  which is fused with the update: on a GPU a condition is a branch of the host, which waits for it.
  """
  if jax.default_backend() == 'cpu':
    return jax.lax.cond(proceeds, update, lambda state: state, state)
  return jax.tree.map(lambda new, old: jnp.where(proceeds, new, old), update(state), state)


def make_examination(method: Method, observe: Callable) -> Callable:
  """What single examples contribute to a step, to find those with a loss or gradient of no use.

  Returns examine(state, key, x [B, ...], label [B]) -> {name: [B]}: each example's terms of the
  loss in the step after `state`, and under 'grad_norm' the norm of its own gradient. One example is
  computed after the other.
  """

  def one(state: TrainState, key, x, label, index):
    observe_keys, loss_keys = random.split(random.example_keys(key, state.step, index[None]))
    batch = Batch(observe(observe_keys, x[None]), label[None], index[None])

    def loss(params):
      variables = Variables(params, state.variables.carry)
      terms = method.loss(variables, loss_keys, batch, state.step)
      return terms['loss'][0], {name: term[0] for name, term in terms.items()}

    grads, terms = jax.grad(loss, has_aux=True)(state.variables.params)
    return terms | {'grad_norm': norm(grads)}

  def examine(state, key, x, label):
    index = jnp.arange(len(x))
    return jax.lax.map(lambda example: one(state, key, *example), (x, label, index))

  return jax.jit(examine)


def norm(tree):
  """The Euclidean norm of all leaves together, as `optax.tree.norm`.

  On CPU XLA adds up a transposed product, as gradients of kernels are, in windows of 32 x 32, which
  takes twice as long; behind a barrier it sees a vector.
  """
  flat = [jax.lax.optimization_barrier(leaf.reshape(-1)) for leaf in jax.tree.leaves(tree)]
  return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in flat))


def is_finite(terms: dict[str, jax.Array]):
  """Where all terms, of one shape, are finite."""
  return jnp.isfinite(jnp.stack(list(terms.values()))).all(axis=0)


def update_average(average, params, decay: float, step):
  """The bias-corrected exponential moving average after `step` >= 1 parameters.

  average_n = (1 - d) sum_i d^(n - i) params_i / (1 - d^n): Adam's correction (Kingma & Ba 2015,
  section 3), written as a recursion on the corrected value itself, which after the first step is
  exactly the first parameters. decay: d, in (0, 1).
  """
  log_decay = np.log(decay)
  weight = np.expm1(log_decay) / jnp.expm1(log_decay * step)
  return jax.tree.map(lambda a, p: a + weight.astype(p.dtype) * (p - a), average, params)


def loop(
  dispatch: Callable,
  state: TrainState,
  key,
  split: data.Split,
  *,
  first_step: int,
  num_steps: int,
  steps_per_dispatch: int,
  batch_size: int,
  seed: int | Sequence[int],
  devices: Sequence[jax.Device],
  resident_bytes: int = 2**31,
) -> Iterator[Progress]:
  """Runs dispatches from first_step to num_steps; yields what there is after each.

  seed: of the order of the examples; several of them for a dispatch over seeds.

  What is yielded are futures, and the state is donated to the next dispatch: use it before
  continuing. A split of at most resident_bytes lies on the devices whole; of a larger one each
  dispatch gets its own examples. Both see the same examples in the same order.
  """
  is_resident = split.x.nbytes <= resident_bytes
  if is_resident:
    x, label = parallel.replicate((split.x, split.label), devices)
  for step in range(first_step, num_steps, steps_per_dispatch):
    count = steps_per_dispatch * batch_size
    indices = np.stack(
      [data.indices(one, step * batch_size, count, len(split.x)) for one in np.atleast_1d(seed)]
    )
    # The order inside the global batch is that of the devices: [S, K, D, b] -> [D, S, K, b].
    indices = indices.reshape(len(indices), steps_per_dispatch, len(devices), -1)
    indices = np.moveaxis(indices, 2, 0)
    if np.ndim(seed) == 0:
      indices = indices[:, 0]
    if not is_resident:
      own = indices.reshape(-1)
      x, label = parallel.shard((split.x[own], split.label[own]), devices)
      places = np.arange(own.size // len(devices)).reshape(indices.shape[1:])
      indices = np.broadcast_to(places, indices.shape)
    indices = parallel.place(indices.astype(np.int32), devices)
    state, metrics, finite = dispatch(state, np.int32(step), key, x, label, indices)
    yield Progress(step + steps_per_dispatch, state, metrics, finite)
