"""The compiled functions of an experiment, for the stages of a run."""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from experiments.build import Experiment
from vaediff import data, parallel, training
from vaediff.evaluation.samples import make_sampler
from vaediff.evaluation.split import make_map
from vaediff.methods.base import Batch, Variables

# Streams of random numbers, folded into the key of the seed.
INIT, TRAIN, EVALUATE, SAMPLE, FIT = range(5)


class Tools:
  """What the stages of a run share: each function is compiled when it is first called, and once."""

  def __init__(
    self,
    experiment: Experiment,
    config: dict,
    folder: Path,
    devices: Sequence[jax.Device],
    publish: Callable[[], None] | None = None,
  ):
    """publish: has all see what has been written to the folder, where that is not enough."""
    self.experiment, self.method = experiment, experiment.method
    self.config, self.folder, self.devices = config, folder, devices
    self.publish = publish or (lambda: None)

  def key(self, stream: int) -> jax.Array:
    """The key of a stream of random numbers."""
    return jax.random.fold_in(jax.random.key(self.config['seed']), stream)

  def over_split(self, f: Callable) -> Callable:
    """f over a split: see `make_map`."""
    batch_size = self.config['evaluation']['batch_size']
    return make_map(f, self.experiment.observe, batch_size, self.devices)

  def initial_state(self) -> training.TrainState:
    """The state before the first step."""
    split = self.experiment.dataset.train
    batch = Batch(split.x[:1], split.label[:1], np.zeros(1, np.int32))
    return training.init(self.key(INIT), self.method, self.experiment.optimizer, batch)

  @functools.cached_property
  def dispatch(self) -> Callable:
    """Several training steps: see `training.make_dispatch`."""
    section = self.config['training']
    return training.make_dispatch(
      self.method,
      self.experiment.optimizer,
      self.experiment.observe,
      section['batch_size'],
      section['ema_decay'],
      self.devices,
    )

  @functools.cached_property
  def scores(self) -> Callable:
    """The bound's terms of each example; without a likelihood its scores, or those of the loss."""
    last_step = self.config['training']['num_steps']

    def test_loss(variables, keys, batch: Batch):
      return self.method.loss(variables, keys, batch, last_step)

    return self.over_split(self.method.log_likelihood_bound or self.method.scores or test_loss)

  @functools.cached_property
  def statistics(self) -> Callable:
    """`Method.statistics` over a split."""
    return self.over_split(self.method.statistics)

  @functools.cached_property
  def sampler(self) -> Callable:
    """`Method.sample` in batches."""
    return make_sampler(self.method.sample, self.config['sampling']['batch_size'], self.devices)

  @functools.cached_property
  def chains(self) -> Callable:
    """`Method.trajectory` in batches."""
    batch_size = self.config['sampling']['batch_size']
    return make_sampler(self.method.trajectory, batch_size, self.devices)

  def labels(self, num: int) -> np.ndarray:
    """The classes in turn, for methods that know them."""
    return np.arange(num, dtype=np.int32) % self.experiment.dataset.num_classes

  def draw(self, variables: Variables, num: int) -> np.ndarray:
    """`num` samples, on the data's own levels."""
    return self.sampler(variables, self.key(SAMPLE), self.labels(num))

  def draw_chains(self, variables: Variables, num: int) -> dict[str, np.ndarray]:
    """The chains behind the samples of `draw`: {'x': [num, S+1, ...], 'log_snr': [num, S+1]}."""
    return self.chains(variables, self.key(SAMPLE), self.labels(num))

  def sampling_seconds(self, variables: Variables) -> float:
    """The time that one batch of samples takes, per 1,000 samples, in seconds."""
    num = self.config['sampling']['batch_size']
    self.draw(variables, num)  # compiles
    start = time.monotonic()
    self.draw(variables, num)
    return (time.monotonic() - start) * 1000 / num

  def final_variables(self, state: training.TrainState) -> Variables:
    """The variables to evaluate and to sample with: averaged, and fitted where there is a fit."""
    variables = training.averaged(state)
    if self.method.fit is None:
      return variables
    split, num = self.experiment.dataset.train, self.config['fit']['num_examples']
    if 0 < num < len(split.x):
      # Spread over the split, which may be sorted.
      index = np.arange(num) * len(split.x) // num
      split = data.Split(split.name, split.x[index], split.label[index])
    fitted = self.method.fit(self.statistics(variables, self.key(FIT), split))
    return variables._replace(fitted=parallel.replicate(fitted, self.devices))
