"""What it costs to stop training at a step that is not finite: the step with the check and without.

The step without is the same code, with the same condition on the update, that looks at no number.
"""

import contextlib
from collections.abc import Iterator
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from configs import compare, digits_vae, mnist_vae
from experiments.build import build
from experiments.tools import TRAIN, Tools
from vaediff import data, parallel, training

CONFIGS = {
  'digits_vae': digits_vae.get_config,
  'compare:digits_diffusion, U-Net': lambda: compare.get_config('digits_diffusion'),
  'mnist_vae, 784-400-20': mnist_vae.get_config,
}


def run(num_turns: int) -> dict[str, list[dict]]:
  """One row for each config: milliseconds per step, and the ratio of the two."""
  rows = []
  for name, get_config in CONFIGS.items():
    contenders, num_steps = _contenders(get_config().to_dict())
    seconds = timing.by_turns(contenders, num_turns)
    checked, free = (timing.summarize(seconds[kind]) for kind in ('checked', 'free'))
    ratio = timing.ratio(seconds['checked'], seconds['free'])
    rows.append(
      {
        'step': name,
        'with the check, ms': 1000 * checked.median / num_steps,
        'without, ms': 1000 * free.median / num_steps,
        'ratio': ratio.median,
        'lower quartile': ratio.lower,
        'upper quartile': ratio.upper,
      }
    )
  return {'Steps': rows}


def _contenders(config: dict) -> tuple[dict, int]:
  """Dispatches with and without the check, each with a state of its own; steps in a dispatch."""
  devices, section = jax.devices(), config['training']
  num_steps, batch_size = section['steps_per_dispatch'], section['batch_size']
  contenders = {}
  for name in ('checked', 'free'):
    tools = Tools(build(config), config, None, devices)
    split = tools.experiment.dataset.train
    fixed = (tools.key(TRAIN), *parallel.replicate((split.x, split.label), devices))
    indices = data.indices(0, 0, num_steps * batch_size, len(split.x)).astype(np.int32)
    indices = indices.reshape(num_steps, len(devices), -1).swapaxes(0, 1)
    contenders[name] = _contender(tools, fixed, parallel.place(indices, devices), name == 'free')
  return contenders, num_steps


def _contender(tools: Tools, fixed: tuple, indices, is_free: bool):
  state, step = parallel.replicate(tools.initial_state(), tools.devices), 0

  def dispatch():
    nonlocal state, step
    state, metrics, _ = tools.dispatch(state, np.int32(step), *fixed, indices)
    step += indices.shape[1]
    return metrics

  def free_dispatch():
    with without_check():  # traced in the first call, which is not counted
      return dispatch()

  return free_dispatch if is_free else dispatch


@contextlib.contextmanager
def without_check() -> Iterator[None]:
  """Steps that are traced here take all numbers for finite."""
  with mock.patch.object(
    training, 'is_finite', lambda terms: jnp.ones_like(next(iter(terms.values())), bool)
  ):
    yield
