"""Training the VAE 784-400-20 on dynamically binarised MNIST, batch 128: the whole loop, with data.

Ours is that of `configs/mnist_vae.py`, which also begins at the mean picture, averages the
parameters, records four metrics and checks each step; once more without the average, which
PyTorch's does not keep either. PyTorch's has its data in memory too; with its default Adam and with
the fused. On a GPU both have the data there, and products in TF32. Two more are what ours cannot do
without, in the same loop of one dispatch: the matrix products of a step, and these with the update
of parameters, moments and average by their gradients.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from benchmarks import flops, peers, timing
from configs import mnist_vae
from experiments.build import build
from experiments.tools import Tools
from vaediff import parallel, training

# Fields of the training.
OURS = {'ours': {}, 'ours, no average': {'ema_decay': 0.0}}
NUM_PEER_STEPS = 100


def run(num_turns: int) -> dict[str, list[dict]]:
  """Pictures per second of ours, PyTorch and torch.compile."""
  works = {}
  for name, fields in OURS.items():
    config = mnist_vae.get_config().to_dict()
    section = config['training']
    section.update(fields)
    tools = Tools(build(config), config, None, jax.devices())
    num_steps, batch_size = section['steps_per_dispatch'], section['batch_size']
    state = parallel.replicate(tools.initial_state(), tools.devices)
    dispatches = tools.dispatches(state, num_steps=num_steps * (num_turns + 1))
    cost = flops.of_training(tools) / batch_size
    items = num_steps * batch_size
    works[name] = timing.Work(lambda d=dispatches: next(d).metrics, items, cost * items)
    if name == 'ours':
      works['the products of ours alone'] = timing.Work(_products(tools), items, cost * items)
      works['the products and the update'] = timing.Work(_update(tools), items, cost * items)
  pictures, items = tools.experiment.dataset.train.x, NUM_PEER_STEPS * batch_size
  for name, compiled in (('PyTorch', False), ('torch.compile', True)):
    for suffix, fused in (('', False), (', fused Adam', True)):
      train = peers.vae_training(pictures, batch_size, NUM_PEER_STEPS, compiled, fused)
      works[name + suffix] = timing.Work(train, items, cost * items)
  return {'Training': timing.compare(works, num_turns, 'pictures', list(OURS))}


def _products(tools: Tools) -> Callable[[], jax.Array]:
  """The products of all steps of a dispatch, and next to nothing else."""

  def step(inputs, carry):
    params, total = jax.lax.optimization_barrier(carry)  # without it all steps are the same one
    gradients, total = _gradients(params, inputs, total)
    return params, total + sum(_corner(leaf) for leaf in jax.tree.leaves(gradients))

  return _loop(tools, step, tools.initial_state().variables.params)


def _update(tools: Tools) -> Callable[[], jax.Array]:
  """The same, and what a step makes of its gradients."""
  decay, optimizer = tools.config['training']['ema_decay'], tools.experiment.optimizer

  def step(inputs, carry):
    state, total = carry
    gradients, total = _gradients(state.variables.params, inputs, total)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.variables.params)
    params = optax.apply_updates(state.variables.params, updates)
    average = training.update_average(state.average, params, decay, state.step + 1)
    variables = state.variables._replace(params=params)
    return training.TrainState(state.step + 1, variables, opt_state, average), total

  return _loop(tools, step, tools.initial_state())


def _gradients(params, inputs, total):
  """For each kernel W [I, O] with its input x [B, I]: y = x W, x^T y in place of the gradient, and,
  as the first layer needs none, y W^T where I is not the number of pixels.

  Returns the gradients, and `total` with one number of what nothing else reads.
  """
  num_pixels = max(x.shape[-1] for x in jax.tree.leaves(inputs))

  def of_leaf(leaf, x):
    nonlocal total
    if leaf.ndim != 2:
      return jnp.zeros_like(leaf)
    y = x @ leaf
    if len(leaf) != num_pixels:
      total += _corner(y @ leaf.T)
    return x.T @ y

  return jax.tree.map(of_leaf, params, inputs), total


def _corner(leaf):
  """One number of an array that is computed whole."""
  return jax.lax.optimization_barrier(leaf).reshape(-1)[0]


def _loop(tools: Tools, step: Callable, init) -> Callable[[], jax.Array]:
  """() -> a number, after the steps of one dispatch from `init`."""
  section = tools.config['training']
  inputs = jax.tree.map(
    lambda leaf: jax.random.normal(jax.random.key(0), (section['batch_size'], len(leaf))),
    tools.initial_state().variables.params,
  )

  @jax.jit
  def run(init, inputs):
    def body(carry, _):
      return step(inputs, carry), None

    return jax.lax.scan(body, (init, jnp.zeros(())), length=section['steps_per_dispatch'])[0]

  return lambda: run(init, inputs)
