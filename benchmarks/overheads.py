"""What a run costs beside its steps: the loop of a run and the bare loop, `configs/mnist_vae.py`.

The bare loop dispatches the same steps, does nothing with what they return, and has no check of
finite steps. A run checks every step, reads the metrics, writes `metrics.jsonl` and TensorBoard,
moves the progress bar, and saves a checkpoint every 2,500 steps. Neither counts compiling.
The second table says how long the loop waits for a save, and how long the writing goes on after it.
"""

import tempfile
import time
from pathlib import Path

import jax

from benchmarks import finite_check, timing
from configs import mnist_vae
from experiments import stages
from experiments.build import build
from experiments.tools import Tools
from vaediff import parallel, reporting
from vaediff.checkpoints import Checkpoints

NUM_STEPS, CHECKPOINT_EVERY = 10_000, 2_500


def run(num_turns: int) -> dict[str, list[dict]]:
  """Milliseconds of a step of each loop, their ratio; the seconds of a save."""
  config = mnist_vae.get_config().to_dict()
  config['training'].update(num_steps=NUM_STEPS, checkpoint_every=CHECKPOINT_EVERY)
  config['evaluation']['every'] = 0
  tools = Tools(build(config), config, None, jax.devices())
  seconds = {'run': [], 'bare': []}
  with tempfile.TemporaryDirectory() as folder:
    for turn in range(num_turns):
      loops = [lambda turn=turn: _run(config, Path(folder) / str(turn)), lambda: _bare(tools)]
      # The order is reversed every other turn.
      for name, loop in list(zip(seconds, loops, strict=True))[:: 1 if turn % 2 else -1]:
        seconds[name].append(loop())
    waits, writes = zip(*(_save(tools, Path(folder) / f'save_{turn}') for turn in range(num_turns)))
  ratio = timing.ratio(seconds['run'], seconds['bare'])
  loops = {
    'run, ms of a step': 1e3 * timing.summarize(seconds['run']).median,
    'bare, ms': 1e3 * timing.summarize(seconds['bare']).median,
    'ratio': ratio.median,
    'lower quartile': ratio.lower,
    'upper quartile': ratio.upper,
  }
  saves = {
    'the loop waits, s': timing.summarize(waits).median,
    'writing goes on, s': timing.summarize(writes).median,
    'MiB': sum(leaf.nbytes for leaf in jax.tree.leaves(tools.initial_state())) / 2**20,
  }
  return {'Loop': [loops], 'Checkpoint': [saves]}


def _run(config: dict, workdir: Path) -> float:
  """Seconds of a step of a run, as it measures them itself."""
  stages.run(config, workdir, 'train')
  return reporting.read_cost(workdir)['training_seconds'] / NUM_STEPS


def _bare(tools: Tools) -> float:
  """Seconds of a step, less those of the first dispatch."""
  dispatches = tools.dispatches(parallel.replicate(tools.initial_state(), tools.devices))
  with finite_check.without_check():  # traced in the first call
    jax.block_until_ready(next(dispatches))
  start = time.perf_counter()
  for done in dispatches:
    last = done
  jax.block_until_ready(last)
  num_timed = NUM_STEPS - tools.config['training']['steps_per_dispatch']
  return (time.perf_counter() - start) / num_timed


def _save(tools: Tools, folder: Path) -> tuple[float, float]:
  """Seconds until a save returns, and until it is written."""
  state = parallel.replicate(tools.initial_state(), tools.devices)
  with Checkpoints(folder) as checkpoints:
    start = time.perf_counter()
    checkpoints.save(1, state)
    returned = time.perf_counter()
    checkpoints.wait()
    return returned - start, time.perf_counter() - returned
