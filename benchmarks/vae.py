"""Training the VAE 784-400-20 on dynamically binarised MNIST, batch 128: the whole loop, with data.

Ours is that of `configs/mnist_vae.py`, which also begins at the mean picture, averages the
parameters, records four metrics and checks each step; once more without the average, which
PyTorch's does not keep either. PyTorch's has its data in memory too; with its default Adam and with
the fused. On a GPU both have the data there, and products in TF32.
"""

import jax

from benchmarks import flops, peers, timing
from configs import mnist_vae
from experiments.build import build
from experiments.tools import Tools
from vaediff import parallel

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
  pictures, items = tools.experiment.dataset.train.x, NUM_PEER_STEPS * batch_size
  for name, compiled in (('PyTorch', False), ('torch.compile', True)):
    for suffix, fused in (('', False), (', fused Adam', True)):
      train = peers.vae_training(pictures, batch_size, NUM_PEER_STEPS, compiled, fused)
      works[name + suffix] = timing.Work(train, items, cost * items)
  return {'Training': timing.compare(works, num_turns, 'pictures', list(OURS))}
