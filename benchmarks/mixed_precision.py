"""Training steps of diffusion in bfloat16 and float32, beside a product of matrices in bfloat16.

The data and the loss are those of `configs/mnist_diffusion_large.py`, and the network is a
transformer so wide that it fills an accelerator (a CPU gets a small one, and bfloat16 has nothing
for it there). It trains in the project's own loop: data, the average of the parameters, metrics and
the check of each step included.
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from benchmarks import flops, timing
from configs import mnist_diffusion_large
from experiments.build import build
from experiments.tools import Tools
from vaediff import parallel

NUM_STEPS = 4
DTYPES = ('bfloat16', 'float32')


def run(num_turns: int) -> dict[str, list[dict]]:
  """Pictures per second and the share of the peak in each type; and the size of the network."""
  config, works = transformer(), {}
  for dtype in DTYPES:
    config.compute_dtype = dtype
    tools = Tools(build(config.to_dict()), config.to_dict(), None, jax.devices())
    works[dtype] = _training(tools, num_turns)
  params = tools.state_shapes().variables.params
  batch_size = config.training.batch_size
  size = {
    **{name: config.denoiser[name] for name in ('width', 'num_blocks', 'num_heads', 'patch_size')},
    'parameters': f'{sum(leaf.size for leaf in jax.tree.leaves(params)):,}',
    'batch': batch_size,
    'GFLOP of a picture': 1e-9 * flops.of_training(tools) / batch_size,
  }
  rows = timing.compare(works, num_turns, 'pictures', dtype=jnp.bfloat16)
  return {'Training': rows, 'Transformer': [size]}


def transformer() -> ConfigDict:
  """Diffusion with a DiT (Peebles & Xie 2023) on patches of 4 x 4, trained by Adam."""
  config = mnist_diffusion_large.get_config().unlock()
  size, batch_size = {'width': 2048, 'num_blocks': 4, 'num_heads': 16}, 1024
  if jax.default_backend() == 'cpu':
    size, batch_size = {'width': 192, 'num_blocks': 2, 'num_heads': 3}, 64
  config.denoiser = ConfigDict({'name': 'transformer', 'patch_size': 4, 'remat': False, **size})
  config.optimizer.update(name='adam', learning_rate=1e-4)
  config.training.update(batch_size=batch_size, steps_per_dispatch=NUM_STEPS)
  return config


def _training(tools: Tools, num_turns: int) -> timing.Work:
  state = parallel.replicate(tools.initial_state(), tools.devices)
  dispatches = tools.dispatches(state, num_steps=NUM_STEPS * (num_turns + 1))
  items = NUM_STEPS * tools.config['training']['batch_size']
  return timing.Work(lambda: next(dispatches).metrics, items, NUM_STEPS * flops.of_training(tools))
