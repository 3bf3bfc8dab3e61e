"""Eight seeds in one program against the eight runs that they stand for: time and equality.

Each training is the first 100 steps of a config, compiled before it is timed; the eight runs follow
each other in one process, which spares them seven starts and compilations. `parameters` is the
largest distance of a seed's parameters from those of its own run, relative to their norm; `loss`
that of a step. Sums are added in another order in products of many matrices, so that they are not
equal bit for bit, and training lets rounding grow.
"""

import jax
import numpy as np

from benchmarks import timing
from configs import digits_vae, variants
from experiments.build import build
from experiments.tools import Tools
from vaediff import parallel, training

NUM_SEEDS, NUM_STEPS = 8, 100
CONFIGS = {
  'digits_vae': digits_vae.get_config,
  'diffusion on digits, MLP': lambda: variants.get_config('diffusion'),
}


def run(num_turns: int) -> dict[str, list[dict]]:
  """One row for each config: seconds of a training of all seeds, their ratio, differences."""
  rows = [_row(name, get_config().to_dict(), num_turns) for name, get_config in CONFIGS.items()]
  return {'Eight seeds': rows}


def _row(name: str, config: dict, num_turns: int) -> dict:
  config['training']['steps_per_dispatch'] = NUM_STEPS
  together = Tools(build(config), config | {'seeds': NUM_SEEDS}, None, jax.devices())
  alone = [together.of_seed(seed) for seed in together.seeds]
  # What is compiled for one seed serves the others.
  for tools in alone[1:]:
    tools.dispatch = alone[0].dispatch
  states = [tools.initial_state() for tools in (together, *alone)]
  seconds = timing.by_turns(
    {
      'together': lambda: _train(together, states[0]),
      'alone': lambda: [_train(tools, state) for tools, state in zip(alone, states[1:])],
    },
    num_turns,
  )
  mine = together.unstack(parallel.unreplicate(_train(together, states[0])))
  theirs = [parallel.unreplicate(_train(t, state)) for t, state in zip(alone, states[1:])]
  one, eight = (timing.summarize(seconds[kind]) for kind in ('together', 'alone'))
  ratio = timing.ratio(seconds['alone'], seconds['together'])
  losses = [_distance(a[1]['loss'], b[1]['loss']) for a, b in zip(mine, theirs, strict=True)]
  params = [_distance(a[0], b[0]) for a, b in zip(mine, theirs, strict=True)]
  return {
    'training': name,
    'one program, s': one.median,
    'eight runs, s': eight.median,
    'eight runs / one program': ratio.median,
    'lower quartile': ratio.lower,
    'upper quartile': ratio.upper,
    'parameters': max(params),
    'loss': max(losses),
  }


def _train(tools: Tools, state: training.TrainState):
  """Parameters and metrics of the first steps, on the devices."""
  (done,) = tools.dispatches(parallel.replicate(state, tools.devices), num_steps=NUM_STEPS)
  return done.state.variables.params, done.metrics


def _distance(a, b) -> float:
  """|a - b| / |b| over all arrays of a tree."""
  a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in (a, b))
  return float(np.linalg.norm(a - b) / np.linalg.norm(b))
