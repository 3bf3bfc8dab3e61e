"""What a run costs beside its steps: the loop of a run and the bare loop, `configs/mnist_vae.py`.

The bare loop dispatches the same steps, does nothing with what they return, and has no check of
finite steps. A run checks every step, reads the metrics, writes `metrics.jsonl` and TensorBoard,
moves the progress bar, and saves a checkpoint every 5,000 steps. Neither counts compiling.
The two go by turns within one run, which is held after each dispatch of 500 steps, or after two
where the first has been saved: what is still being written then slows the run itself. Each ratio is
of the sums over the steps from one save to the next; the interval of their median is that of the
order statistics. The second table says how long the loop waits for a save, and how long the writing
goes on after it. The third is the processor time of all that a run does beside its steps, measured
by giving it the same dispatch again and again: it is exact where the ratio by the clock is blurred
by what else the machine does. Its share of the bare loop's seconds is what it costs where it waits
for one core, and the steps for it.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import binom

from benchmarks import finite_check, timing
from configs import mnist_vae
from experiments import stages
from experiments.build import build
from experiments.tools import Tools
from vaediff import parallel, training
from vaediff.checkpoints import Checkpoints

STEPS_PER_DISPATCH, CHECKPOINT_EVERY = 500, 5_000


def run(num_turns: int) -> dict[str, list[dict]]:
  """Milliseconds of a step of each loop, their ratio; the seconds of a save."""
  config = mnist_vae.get_config().to_dict()
  config['evaluation']['every'] = 0
  config['training'].update(
    # One period more than is timed: the first save ends what compiles.
    num_steps=(num_turns + 1) * CHECKPOINT_EVERY,
    steps_per_dispatch=STEPS_PER_DISPATCH,
    checkpoint_every=CHECKPOINT_EVERY,
  )
  tools = Tools(build(config), config, None, jax.devices())
  with tempfile.TemporaryDirectory() as folder:
    seconds = _by_turns(config, tools, Path(folder) / 'run')
    work = _own_work(config, tools, Path(folder) / 'replayed')
    waits, writes = zip(*(_save(tools, Path(folder) / f'save_{turn}') for turn in range(num_turns)))
  ratios = np.sort(seconds[:, 0] / seconds[:, 1])
  below = int(binom.ppf(0.025, num_turns, 0.5))
  step_ms = 1e3 * np.median(seconds, axis=0) / CHECKPOINT_EVERY
  loops = {
    'run, ms of a step': float(step_ms[0]),
    'bare, ms': float(step_ms[1]),
    'ratio': float(np.median(ratios)),
    '95% interval': f'{ratios[below - 1]:.4g} to {ratios[-below]:.4g}' if below else 'too few',
    'saves': num_turns,
  }
  saves = {
    'the loop waits, s': timing.summarize(waits).median,
    'writing goes on, s': timing.summarize(writes).median,
    'MiB': sum(leaf.nbytes for leaf in jax.tree.leaves(tools.initial_state())) / 2**20,
  }
  own = {
    'a dispatch, ms': 1e3 * float(np.median(work[:, :-1])),
    'from save to save, ms': 1e3 * float(np.median(work.sum(axis=1))),
    'of the bare loop': float(np.median(work.sum(axis=1)) / np.median(seconds[:, 1])),
  }
  return {'Loop': [loops], 'Checkpoint': [saves], "A run's own work, processor time": [own]}


def _by_turns(config: dict, tools: Tools, workdir: Path) -> np.ndarray:
  """Seconds from one save to the next, [turns, 2]: of the loop of a run, and of the bare loop."""
  dispatches, seconds = Tools.dispatches, []
  bare = tools.dispatches(parallel.replicate(tools.initial_state(), tools.devices))
  with finite_check.without_check():  # traced in the first call
    jax.block_until_ready(next(bare))

  def held(
    tools: Tools, state: training.TrainState, first_step: int
  ) -> Iterator[training.Progress]:
    start, num = time.perf_counter(), 0
    for done in dispatches(tools, state, first_step):
      yield done
      num += 1
      if done.step % CHECKPOINT_EVERY == 0:
        continue
      jax.block_until_ready(done.state)
      middle = time.perf_counter()
      for _ in range(num):
        last = next(bare)
      jax.block_until_ready(last)
      seconds.append((middle - start, time.perf_counter() - middle))
      start, num = time.perf_counter(), 0

  with mock.patch.object(Tools, 'dispatches', held):
    stages.run(config, workdir, 'train')
  # A save stands in the last dispatch of a period, which goes with the first of the next one.
  per_period = CHECKPOINT_EVERY // STEPS_PER_DISPATCH - 1
  return np.reshape(seconds[per_period:], (-1, per_period, 2)).sum(axis=1)


def _own_work(config: dict, tools: Tools, workdir: Path) -> np.ndarray:
  """Processor seconds, [turns, dispatches from save to save], of a run's loop without its steps."""
  (done,) = tools.dispatches(
    parallel.replicate(tools.initial_state(), tools.devices), num_steps=STEPS_PER_DISPATCH
  )
  jax.block_until_ready(done)
  seconds = []

  def replayed(
    tools: Tools, state: training.TrainState, first_step: int
  ) -> Iterator[training.Progress]:
    last_step = config['training']['num_steps']
    for step in range(first_step + STEPS_PER_DISPATCH, last_step + 1, STEPS_PER_DISPATCH):
      state = done.state._replace(step=jnp.full_like(done.state.step, step))
      start = time.process_time()
      yield done._replace(step=step, state=state)
      seconds.append(time.process_time() - start)

  with mock.patch.object(Tools, 'dispatches', replayed):
    stages.run(config, workdir, 'train')
  # What a save leaves to be written goes with the dispatches of the next period.
  per_period = CHECKPOINT_EVERY // STEPS_PER_DISPATCH
  return np.reshape(seconds[per_period:], (-1, per_period))


def _save(tools: Tools, folder: Path) -> tuple[float, float]:
  """Seconds until a save returns, and until it is written."""
  state = parallel.replicate(tools.initial_state(), tools.devices)
  with Checkpoints(folder) as checkpoints:
    start = time.perf_counter()
    checkpoints.save(1, state)
    returned = time.perf_counter()
    checkpoints.wait()
    return returned - start, time.perf_counter() - returned
