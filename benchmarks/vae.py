"""Training the VAE 784-400-20 on dynamically binarised MNIST, batch 128: the whole loop, with data.

Ours is that of `configs/mnist_vae.py`, which also begins at the mean picture, averages the
parameters, records four metrics and checks each step. PyTorch's has its data in memory too; with
its default Adam and with the fused. On a GPU both have the data there, and products in TF32.
"""

import jax

from benchmarks import flops, peers, timing
from configs import mnist_vae
from experiments.build import build
from experiments.tools import Tools
from vaediff import parallel

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
  cost = flops.of_training(tools) / batch_size
  items = num_steps * batch_size
  works = {OURS: timing.Work(lambda: next(dispatches).metrics, items, cost * items)}
  items = NUM_PEER_STEPS * batch_size
  for name, compiled in (('PyTorch', False), ('torch.compile', True)):
    for suffix, fused in (('', False), (', fused Adam', True)):
      train = peers.vae_training(pictures, batch_size, NUM_PEER_STEPS, compiled, fused)
      works[name + suffix] = timing.Work(train, items, cost * items)
  return {'Training': timing.compare(works, num_turns, 'pictures', [OURS])}
