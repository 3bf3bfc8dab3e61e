"""Training the VAE 784-400-20 on dynamically binarised MNIST, batch 128: the whole loop, with data.

Ours is that of `configs/mnist_vae.py`, which also begins at the mean picture, averages the
parameters, records four metrics and checks each step. PyTorch's has its data in memory too; with
its default Adam and with the fused.
"""

import jax
import numpy as np

from benchmarks import flops, peers, timing
from configs import mnist_vae
from experiments.build import build
from experiments.tools import TRAIN, Tools
from vaediff import parallel, random
from vaediff.methods.base import Batch

OURS = 'ours'
NUM_PEER_STEPS = 100


def run(num_turns: int) -> dict[str, list[dict]]:
  """Pictures per second of ours, PyTorch and torch.compile."""
  config = mnist_vae.get_config().to_dict()
  tools = Tools(build(config), config, None, jax.devices())
  section, pictures = config['training'], tools.experiment.dataset.train.x
  num_steps, batch_size = section['steps_per_dispatch'], section['batch_size']
  state = parallel.replicate(tools.initial_state(), tools.devices)
  dispatches = tools.dispatches(state, num_steps=num_steps * (num_turns + 1))
  cost = flops_per_picture(tools, batch_size)
  items = num_steps * batch_size
  works = {OURS: timing.Work(lambda: next(dispatches).metrics, items, cost * items)}
  items = NUM_PEER_STEPS * batch_size
  for name, compiled in (('PyTorch', False), ('torch.compile', True)):
    for suffix, fused in (('', False), (', fused Adam', True)):
      train = peers.vae_training(pictures, batch_size, NUM_PEER_STEPS, compiled, fused)
      works[name + suffix] = timing.Work(train, items, cost * items)
  return {'Training': timing.compare(works, num_turns, 'pictures', [OURS])}


def flops_per_picture(tools: Tools, batch_size: int) -> float:
  """Of the loss and its gradient."""
  shape = tools.experiment.dataset.train.x.shape[1:]
  x, label = np.zeros((batch_size, *shape), np.uint8), np.zeros(batch_size, np.int32)
  batch = Batch(x, label, np.arange(batch_size, dtype=np.int32))
  keys = random.example_keys(tools.key(TRAIN), 0, batch.index)
  variables = tools.initial_state().variables

  def loss(params):
    return tools.method.loss(variables._replace(params=params), keys, batch, 0)['loss'].sum()

  return flops.of_jax(jax.grad(loss), variables.params) / batch_size
