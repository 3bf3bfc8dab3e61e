"""Forward and backward of one 3 x 3 convolution, batch 64, float32: plain, and inside `lax.scan`.

The implementations of `vaediff.networks.layers.conv` ('lax': XLA's own; 'canonical': that with
gradients of its own; 'winograd': of fewer multiplications), of which it takes the fastest by the
number of channels; the same as three products of matrices, one for each row of the kernel; and
PyTorch's. A turn is NUM_CALLS of them, each on the input of the one before less a little of its
gradient. All but PyTorch's run on one device for each core, which sum the gradients of the kernel.
GFLOP/s are by the multiplications and additions of the definition.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import timing
from vaediff import parallel
from vaediff.networks import layers

BATCH_SIZE, NUM_CALLS = 64, 10
SHARED_BATCHES = (BATCH_SIZE,)
# Height and width, channels.
SHAPES = ((28, 32), (16, 48), (14, 64), (7, 128))
OURS = ('canonical, in a scan', 'winograd, in a scan')
# The step between inputs, so small that they stay what they are.
_RATE = 1e-6


def run(num_turns: int) -> dict[str, list[dict]]:
  """GFLOP/s of each, and the fraction of the ceiling, for each shape."""
  return {
    f'{size} x {size} x {channels}': _compare(size, channels, num_turns)
    for size, channels in SHAPES
  }


def _compare(size: int, channels: int, num_turns: int) -> list[dict]:
  rng = np.random.default_rng(0)
  x = rng.normal(size=(BATCH_SIZE, size, size, channels)).astype(np.float32)
  kernel = (0.01 * rng.normal(size=(3, 3, channels, channels))).astype(np.float32)
  cost = 3 * 2 * 9 * channels**2 * size**2 * BATCH_SIZE * NUM_CALLS
  calls = {'PyTorch': _torch(x, kernel)}
  ours = {
    name: functools.partial(layers.conv, implementation=name)
    for name in layers.CONV_IMPLEMENTATIONS
  }
  for name, conv in (ours | {'three products': _three_products}).items():
    calls |= {f'{name}, {where}': call for where, call in _jax(conv, x, kernel).items()}
  works = {name: timing.Work(call, NUM_CALLS, cost) for name, call in calls.items()}
  return timing.compare(works, num_turns, 'convolutions', OURS)


def _jax(conv, x, kernel) -> dict:
  """The calls one by one, and in one loop."""
  gradient = jax.grad(lambda x, kernel: jnp.sum(jnp.square(conv(x, kernel))), (0, 1))

  def step(x, kernel):
    x_bar, kernel_bar = gradient(x, kernel)
    return x - _RATE * x_bar, kernel - _RATE * parallel.sum_over_devices(kernel_bar)

  def loop(x, kernel):
    return jax.lax.scan(lambda both, _: (step(*both), None), (x, kernel), length=NUM_CALLS)[0]

  def one_by_one(x, kernel):
    for _ in range(NUM_CALLS):
      x, kernel = plain(x, kernel)
    return x, kernel

  devices = jax.devices()
  plain, whole = parallel.pmap(step, devices), parallel.pmap(loop, devices)
  arrays = parallel.shard(x, devices), parallel.replicate(kernel, devices)
  return {'plain': lambda: one_by_one(*arrays), 'in a scan': lambda: whole(*arrays)}


def _three_products(x, kernel):
  """[B, H, W, C]: the three columns of each window side by side, times each row of the kernel."""
  _, height, width, channels = x.shape
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  columns = jnp.concatenate([padded[:, :, i : i + width] for i in range(3)], axis=-1)
  rows = kernel.reshape(3, 3 * channels, -1)
  return sum(columns[:, i : i + height] @ rows[i] for i in range(3))


def _torch(x, kernel):
  x = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
  kernel = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())

  def call():
    own_x, own_kernel = x, kernel
    for _ in range(NUM_CALLS):
      own_x, own_kernel = (a.detach().requires_grad_() for a in (own_x, own_kernel))
      y = torch.nn.functional.conv2d(own_x, own_kernel, padding=1)
      gradients = torch.autograd.grad(y.square().sum(), (own_x, own_kernel))
      own_x, own_kernel = (
        a - _RATE * bar for a, bar in zip((own_x, own_kernel), gradients, strict=True)
      )

  return call
