"""A trained run in Python: its functions, and what it has learned.

  from experiments import trained

  run = trained.load('runs/digits_diffusion')
  x = run.draw(100)[0]  # samples on the data's own levels, uint8 [100, 8, 8, 1]

What a run gives comes for each of its seeds, in a list or on a first axis, also where there is one.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import measures, workdir
from experiments.build import build
from experiments.tools import EVALUATE, SAMPLE, Tools
from vaediff import data, parallel, training
from vaediff.checkpoints import Checkpoints
from vaediff.errors import InputError
from vaediff.methods.base import Variables


class Run(NamedTuple):
  """A run: its functions, and what it has learned, of all seeds, on the devices.

  tools.method has the method's functions, and tools.experiment.dataset the data; variables are what
  the former take.
  """

  folder: Path
  tools: Tools
  state: training.TrainState
  variables: Variables

  def changed(self, **sections: Mapping[str, Any]) -> 'Run':
    """The same parameters with other fields in these sections of the config."""
    config = self.tools.config
    config = config | {name: config[name] | fields for name, fields in sections.items()}
    tools = Tools(build(config), config, self.folder, self.tools.devices, failed=self.tools.failed)
    # How samples are drawn changes nothing in what is fitted, but which codes they are drawn from.
    is_same = set(sections) <= {'sampler'} and 'codes' not in sections['sampler']
    variables = self.variables if is_same else tools.final_variables(self.state)
    return Run(self.folder, tools, self.state, variables)

  def draw(self, num: int) -> list[np.ndarray]:
    """`num` samples of each seed, on the data's own levels."""
    return self.tools.draw(self.variables, num)

  def sample_by(self, f: Callable, num: int) -> list:
    """f(variables, keys [N], label [N]) -> tree of [N, ...], for `num` keys of each seed."""
    return self.tools.in_batches(f)(self.variables, self.tools.key(SAMPLE), self.tools.labels(num))

  def over(self, split: data.Split, f: Callable) -> list:
    """f(variables, keys [B], batch) -> tree of [B, ...] over a split, for each seed."""
    return self.tools.over_split(f)(self.variables, self.tools.key(EVALUATE), split)

  def over_test(self, f: Callable) -> list:
    """The same over the evaluation split."""
    return self.over(self.tools.experiment.dataset.evaluation, f)

  def code_means(self) -> list[np.ndarray]:
    """The means of q(z | x) over the evaluation split, [N, D] for each seed."""
    code = self.tools.method.code
    return self.over_test(lambda v, keys, batch: code.latent.mean(code.posterior(v, batch.x)))

  def scores(self) -> dict[str, np.ndarray]:
    """What is measured of the evaluation split, {name: [S]}."""
    found = measures.scores(self.tools, self.variables)
    return {name: np.array([metrics[name]['value'] for metrics in found]) for name in found[0]}

  def metric(self, name: str) -> np.ndarray:
    """What results.json has by this name, [S]."""
    results = json.loads((self.folder / 'results.json').read_text())
    of_seeds = [entry for entry in results.get('seeds', [results]) if 'metrics' in entry]
    return np.array([entry['metrics'][name]['value'] for entry in of_seeds])

  def curves(self, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Metrics of the evaluation split along training: {'step': [E], name: [S, E]}."""
    split = self.tools.experiment.dataset.evaluation.name
    lines = map(json.loads, (self.folder / 'metrics.jsonl').read_text().splitlines())
    found = {(line.get('seed'), line['step']): line for line in lines if line['split'] == split}
    steps = sorted({step for _, step in found})
    tags = [self.tools.tag(seed) for seed in self.tools.seeds]
    return {'step': np.array(steps)} | {
      name: np.array([[found[tag, step][name] for step in steps] for tag in tags]) for name in names
    }


def load(
  folder: str | os.PathLike,
  config: dict | None = None,
  devices: Sequence[jax.Device] | None = None,
) -> Run:
  """The newest checkpoint of a run, with what is fitted after training.

  folder: its workdir, on this machine. config: None for the run's own; another may change how it is
  evaluated and sampled, and where its data are. devices: None for all.

  Raises InputError where the folder holds no run, no checkpoint, or the data are not there.
  """
  folder = Path(folder)
  config = workdir.read_config(folder) if config is None else config
  tools = Tools(build(config), config, folder, devices or parallel.all_devices())
  with Checkpoints(folder / 'checkpoints', read_only=True) as checkpoints:
    found = checkpoints.restore_newest(tools.state_shapes())
  if found is None:
    raise InputError(f'{folder} holds no checkpoint; train one there first')
  step, state = found
  tools, state = tools.living(parallel.replicate(state, tools.devices), step)
  return Run(folder, tools, state, tools.final_variables(state))
