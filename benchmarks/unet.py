"""A U-Net of the cost of diffusers' UNet2DModel, pictures of 28 x 28 in batches of 64.

Both have residual blocks at three (diffusers) or two (ours, on patches of 2 x 2) resolutions and
attention in the lowest; their parameters and operations are equal within 5%, see the fourth table.
Ours is few and wide layers: of the shapes of equal cost they do the least beside their products.
Training is the simple loss with Adam: ours in the project's own loop, which also takes its batches
from data, averages the parameters, records metrics and checks each step; diffusers' on one batch.
Both also add up the gradient in four parts (`training.gradient_accumulation`): arrays that are a
quarter as large are more often found in a cache. Sampling is ancestral, in the loop of each, with
as many calls of the network as the table says.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import flops, peers, timing
from vaediff import data, parallel, schedules, training
from vaediff.evaluation.samples import make_sampler
from vaediff.methods.base import Batch, Method, Variables
from vaediff.methods.diffusion import diffusion
from vaediff.networks import Network, unet

BATCH_SIZE, SHAPE = 64, (28, 28, 1)
SHARED_BATCHES = (BATCH_SIZE,)
PEER_WIDTHS = (32, 64, 128)
OUR_WIDTHS, OUR_BLOCKS = (176, 32), 1
# Of one dispatch, and of one chain.
NUM_TRAINING_STEPS, NUM_SAMPLING_STEPS = 4, 10
NUM_PARTS = 4


def run(num_turns: int) -> dict[str, list[dict]]:
  """Pictures per second: training, forward, sampling; and the cost of the two networks."""
  model, network = peers.unet(PEER_WIDTHS), our_network(OUR_WIDTHS, OUR_BLOCKS)
  method = our_method(network, NUM_SAMPLING_STEPS)
  params = jax.jit(network.init)(jax.random.key(0), *inputs(1))
  peer_cost, our_cost = peer_flops(model), our_flops(network, params)
  devices = jax.devices()
  forward = parallel.pmap(network.apply, devices)
  arguments = parallel.replicate(params, devices), *parallel.shard(inputs(BATCH_SIZE), devices)
  our_step_cost, peer_step_cost = our_training_flops(network, params), peer_training_flops(model)
  works = {}
  for num_parts, in_parts in ((1, ''), (NUM_PARTS, f' in {NUM_PARTS} parts')):
    ours = our_training(method, num_turns, num_parts)
    works[f'ours{in_parts}'] = _work(ours, our_step_cost, NUM_TRAINING_STEPS)
    peer = peers.unet_training(model, BATCH_SIZE, num_parts)
    works[f'diffusers{in_parts}'] = _work(peer, peer_step_cost)
  own_names = [name for name in works if name.startswith('ours')]
  tables = {'Training': timing.compare(works, num_turns, 'pictures', own_names)}
  works = {
    'ours': _work(lambda: forward(*arguments), our_cost),
    'diffusers': _work(peers.unet_forward(model, BATCH_SIZE), peer_cost),
  }
  tables['Forward'] = timing.compare(works, num_turns, 'pictures', ['ours'])
  works = {
    'ours': _work(our_sampling(method, params), NUM_SAMPLING_STEPS * our_cost),
    'diffusers': _work(
      peers.ancestral_sampling(model, BATCH_SIZE, NUM_SAMPLING_STEPS),
      NUM_SAMPLING_STEPS * peer_cost,
    ),
  }
  tables[f'Sampling, {NUM_SAMPLING_STEPS} calls'] = timing.compare(
    works, num_turns, 'pictures', ['ours']
  )
  num_ours = sum(leaf.size for leaf in jax.tree.leaves(params))
  num_peer = sum(leaf.numel() for leaf in model.parameters())
  tables['Cost'] = [
    {'network': 'ours', 'parameters': num_ours, 'GFLOP of a call': 1e-9 * our_cost},
    {'network': 'diffusers', 'parameters': num_peer, 'GFLOP of a call': 1e-9 * peer_cost},
    {
      'network': 'ratio',
      'parameters': num_ours / num_peer,
      'GFLOP of a call': our_cost / peer_cost,
    },
  ]
  return tables


def _work(call: Callable, cost: float, num_steps: int = 1) -> timing.Work:
  """cost: operations for one picture. num_steps: of a call, on BATCH_SIZE pictures each."""
  return timing.Work(call, num_steps * BATCH_SIZE, num_steps * BATCH_SIZE * cost)


def our_network(widths: tuple[int, ...], num_blocks: int) -> Network:
  return unet.denoiser(1, widths, num_blocks, patch_size=2)


def our_method(network: Network, num_steps: int) -> Method:
  """Diffusion on 1,000 levels with num_steps steps of ancestral sampling."""
  return diffusion(
    network, schedules.linear(1000), SHAPE, num_levels=256, num_sampling_steps=num_steps
  )


def inputs(batch_size: int) -> tuple:
  return (
    jnp.zeros((batch_size, *SHAPE)),
    jnp.zeros(batch_size),
    jnp.zeros(batch_size, jnp.int32),
  )


def our_flops(network: Network, params) -> float:
  """Of one call, for one picture."""
  return flops.of_jax(network.apply, params, *inputs(BATCH_SIZE)) / BATCH_SIZE


def peer_flops(model) -> float:
  """Of one call, for one picture."""
  return flops.of_torch(peers.unet_forward(model, BATCH_SIZE)) / BATCH_SIZE


def our_training_flops(network: Network, params) -> float:
  """Of the forward and backward pass of a training step, for one picture."""
  gradient = jax.grad(lambda params, *inputs: jnp.sum(network.apply(params, *inputs)))
  return flops.of_jax(gradient, params, *inputs(BATCH_SIZE)) / BATCH_SIZE


def peer_training_flops(model) -> float:
  """The same."""
  return flops.of_torch(peers.unet_training(model, BATCH_SIZE)) / BATCH_SIZE


def our_training(method: Method, num_turns: int, num_parts: int):
  """A function that does one dispatch of the real training loop, with that many microbatches."""
  devices = jax.devices()
  x = np.random.default_rng(0).integers(0, 256, (4 * BATCH_SIZE, *SHAPE)).astype(np.uint8)
  split = data.Split('train', x, np.full(len(x), -1, np.int32))
  optimizer = optax.adam(peers.LEARNING_RATE)
  batch = Batch(x[:1], split.label[:1], np.zeros(1, np.int32))
  dispatches = training.loop(
    training.make_dispatch(
      method, optimizer, lambda keys, x: x, BATCH_SIZE, 0.999, devices, num_parts
    ),
    parallel.replicate(training.init(jax.random.key(0), method, optimizer, batch), devices),
    jax.random.key(1),
    split,
    first_step=0,
    num_steps=NUM_TRAINING_STEPS * (num_turns + 1),
    steps_per_dispatch=NUM_TRAINING_STEPS,
    batch_size=BATCH_SIZE,
    seed=0,
    devices=devices,
  )
  return lambda: next(dispatches).metrics


def our_sampling(method: Method, params):
  """A function that draws BATCH_SIZE samples as a run does."""
  devices = jax.devices()
  variables = parallel.replicate(Variables({'denoiser': params}), devices)
  sample = make_sampler(method.sample, BATCH_SIZE, devices)
  labels = np.full(BATCH_SIZE, -1, np.int32)
  return lambda: sample(variables, jax.random.key(0), labels)
