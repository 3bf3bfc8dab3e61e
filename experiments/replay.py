"""A training step that went wrong, kept so that it can be done again.

W/replay.npz holds the state before the step and what was wrong: which metrics were not finite, and
for which examples. `--mode=replay` does that very step once more and compares. Of a run of several
seeds each has a file of its own, W/replay_SEED.npz.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.tools import TRAIN, Tools, all_seeds
from vaediff import data, parallel, reporting, training
from vaediff.errors import InputError, RunError

COMMAND = 'python -m experiments.run --workdir={} --mode=replay'
# The name of the failure among the arrays.
_FAILURE = 'failure'
_MAX_NAMED = 10


class Failure(NamedTuple):
  """A step whose loss or gradient is not finite.

  step: its number, from 1.
  metrics: {name: value} of the step, as text that gives the float back.
  examples: the indices in the training split of the examples at fault; none where only their sum
    is not finite.
  reason: what is wrong with each of them: its terms, or the norm of its own gradient.
  """

  step: int
  metrics: dict[str, str]
  examples: list[int]
  reason: list[dict[str, str]]

  def message(self) -> str:
    """The failure in words."""
    wrong = [f'{k} is {v}' for k, v in self.metrics.items() if not np.isfinite(float(v))]
    named = ', '.join(map(str, self.examples[:_MAX_NAMED]))
    more = ', ...' if len(self.examples) > _MAX_NAMED else ''
    whose = f'training examples {named}{more}' if self.examples else 'the sum over the batch alone'
    return f'step {self.step}: {", ".join(wrong)}, from {whose}'


def find(tools: Tools, before: training.TrainState, metrics: dict, finite: jax.Array) -> Failure:
  """What went wrong in the step after the state `before`, of one seed.

  tools: for that seed. metrics: {name: scalar} of that step. finite: [d, b], whether the terms of
  each example are.
  """
  section, split = tools.config['training'], tools.experiment.dataset.train
  batch_size, done = section['batch_size'], int(before.step)
  index = data.indices(tools.config['seed'], done * batch_size, batch_size, len(split.x))
  examine = training.make_examination(tools.method, tools.experiment.observe)
  examined = jax.device_get(examine(before, tools.key(TRAIN), split.x[index], split.label[index]))
  is_wrong = ~parallel.unshard(finite)
  if not is_wrong.any():  # then it is the gradient
    is_wrong = ~np.isfinite(examined['grad_norm'])
  return Failure(
    done + 1,
    {name: _text(value) for name, value in metrics.items()},
    index[is_wrong].tolist(),
    [{k: _text(v[place]) for k, v in examined.items()} for place in np.flatnonzero(is_wrong)],
  )


def write(path: Path, before: training.TrainState, failure: Failure) -> None:
  """Writes the file of a failure in the step after the state `before`."""
  arrays = _by_path(before)
  with reporting.replacing(path) as temporary, temporary.open('wb') as file:
    np.savez(file, **{_FAILURE: json.dumps(failure._asdict())}, **arrays)


def file_names(config: Mapping) -> dict[int, str]:
  """{seed: its file} of a config."""
  seeds = all_seeds(config)
  return {seed: f'replay_{seed}.npz' if len(seeds) > 1 else 'replay.npz' for seed in seeds}


def replay(tools: Tools, folder: Path) -> None:
  """Does the steps of all such files in the folder again, in the compiled program of training.

  Prints what was wrong, example by example. Raises InputError where there is no such file for this
  config, RunError where a step goes otherwise than it did.
  """
  paths = [folder / name for name in file_names(tools.config).values()]
  there = [place for place, path in enumerate(paths) if path.exists()]
  for place in there or [0]:
    _replay(tools, paths[place], place)


def _replay(tools: Tools, path: Path, place: int) -> None:
  own = tools.of_seed(tools.seeds[place])
  failure, state = _read(path, own.state_shapes())
  done = int(state.step)
  # The other seeds go along from the same state: what they do has no part in this one.
  states = parallel.replicate(tools.stack([state] * len(tools.seeds)), tools.devices)
  done_again = next(tools.dispatches(states, done, done + 1))
  metrics, after = (
    tools.unstack(parallel.unreplicate(tree))[place]
    for tree in (done_again.metrics, done_again.state)
  )
  finite = tools.unstack(done_again.finite, axis=1)[place]
  first = {name: values[0] for name, values in metrics.items()}
  again = find(own, after, first, finite[:, 0])
  print(again.message())
  for example, reason in zip(again.examples[:_MAX_NAMED], again.reason, strict=False):
    print(f'  training example {example}: {", ".join(f"{k} {v}" for k, v in reason.items())}')
  if again != failure:
    raise RunError(f'the step went otherwise than it did, which was: {failure.message()}')
  print('the same as it was, bit for bit')


def _read(path: Path, template: training.TrainState) -> tuple[Failure, training.TrainState]:
  try:
    with path.open('rb') as opened, np.load(opened, allow_pickle=False) as file:
      arrays = dict(file)
    failure = Failure(**json.loads(str(arrays.pop(_FAILURE))))
  except Exception as error:  # NumPy, zipfile and JSON share no base class
    raise InputError(
      f'{path} cannot be read ({type(error).__name__}: {error}); a run that meets a loss which is '
      'not finite writes it'
    ) from error
  kinds = ({k: (v.shape, v.dtype) for k, v in a.items()} for a in (arrays, _by_path(template)))
  if next(kinds) != next(kinds):
    raise InputError(f'{path} is of another model than this config')
  return failure, jax.tree.unflatten(jax.tree.structure(template), arrays.values())


def _by_path(state: training.TrainState) -> dict[str, Any]:
  return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(state)}


def _text(value) -> str:
  return repr(float(value))
