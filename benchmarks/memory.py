"""Memory of a training step: constant in the number of steps, less by accumulation.

Bytes are those that the compiled program asks for (XLA's memory analysis): of the state, which is
donated, so that there is one of it; and temporary ones. The steps are those of a U-Net on 28 x 28,
batch 64. `microbatches` is `training.gradient_accumulation`, `remat` is `denoiser.remat`,
which XLA undoes on a CPU: it takes the two computations for one again.
"""

import jax
import numpy as np

from benchmarks import timing, unet
from configs import common
from experiments.build import build
from experiments.tools import TRAIN, Tools
from vaediff import parallel

BATCH_SIZE, NUM_STEPS = 64, 2


def run(num_turns: int) -> dict[str, list[dict]]:
  """Bytes along T and the steps of a dispatch; bytes and seconds along the two options."""
  constant = []
  for T, num_steps in ((100, 2), (10_000, 2), (100, 200)):
    compiled, state, _ = _step(_config(T=T), num_steps)
    constant.append({'T': T, 'steps of a dispatch': num_steps} | _bytes(compiled, state))
  options, rows = [(1, False), (4, False), (1, True), (4, True)], []
  steps = {option: _step(_config(*option), NUM_STEPS) for option in options}
  seconds = timing.by_turns({option: call for option, (_, _, call) in steps.items()}, num_turns)
  for option, (compiled, state, _) in steps.items():
    microbatches, remat = option
    cost = timing.ratio(seconds[option], seconds[options[0]])
    rows.append(
      {'microbatches': microbatches, 'remat': remat}
      | _bytes(compiled, state)
      | {
        's of a step': timing.summarize(seconds[option]).median / NUM_STEPS,
        'of the plain step': f'{cost.median:.3g} ({cost.lower:.3g} to {cost.upper:.3g})',
      }
    )
  return {'Constant': constant, 'Options': rows}


def _config(microbatches: int = 1, remat: bool = False, T: int = 100) -> dict:
  config = common.diffusion('digits').to_dict()
  config['schedule']['T'] = T
  config['denoiser'].update(widths=(96, 48), num_blocks=3, patch_size=2, remat=remat)
  config['training'].update(batch_size=BATCH_SIZE, gradient_accumulation=microbatches)
  return config


def _step(config: dict, num_steps: int):
  """The compiled dispatch, the state, and a call that goes on from the state before."""
  devices = jax.devices()
  tools = Tools(build(config), config, None, devices)
  x = np.zeros((BATCH_SIZE, *unet.SHAPE), np.uint8)
  label = np.zeros(BATCH_SIZE, np.int32)
  fixed = (tools.key(TRAIN), *parallel.replicate((x, label), devices))
  indices = np.broadcast_to(np.arange(BATCH_SIZE, dtype=np.int32), (num_steps, BATCH_SIZE))
  indices = indices.reshape(num_steps, len(devices), -1).swapaxes(0, 1)
  state = parallel.replicate(tools.initial_state(), devices)
  own, step = state, 0

  def call():
    nonlocal own, step
    own, metrics, _ = compiled(own, np.int32(step), *fixed, indices)
    step += num_steps
    return metrics

  compiled = tools.dispatch.lower(state, np.int32(0), *fixed, indices).compile()
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
  return compiled, size, call


def _bytes(compiled, state_bytes: int) -> dict[str, float]:
  analysis = compiled.memory_analysis()
  return {
    'state, MiB': state_bytes / 2**20,
    'of which donated, MiB': analysis.alias_size_in_bytes / 2**20,
    'temporary, MiB': analysis.temp_size_in_bytes / 2**20,
  }
