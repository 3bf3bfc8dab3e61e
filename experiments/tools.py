"""The compiled functions of an experiment, for the stages of a run."""

import functools
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments import storage
from experiments.build import Experiment
from vaediff import data, parallel, training
from vaediff.evaluation.samples import make_sampler
from vaediff.evaluation.split import make_map
from vaediff.methods.base import Batch, Variables

# Streams of random numbers, folded into the key of the seed.
INIT, TRAIN, EVALUATE, SAMPLE, FIT = range(5)


class Tools:
  """What the stages of a run share: each function is compiled when it is first called, and once.

  One program computes for all seeds of the run. Where the config asks for several, its arrays have
  an axis for them, [d, S, ...] on the devices; where it asks for one they have none. What comes
  back of single examples is a list in either case, with one entry for each seed.

  seeds: those of the config, or those that are left of them.
  failed: {seed: the step that was not finite} of the others.
  """

  def __init__(
    self,
    experiment: Experiment,
    config: dict,
    folder: Path,
    devices: Sequence[jax.Device],
    publish: Callable[[], None] | None = None,
    kept_in: storage.Folder | None = None,
    failed: Mapping[int, int] = types.MappingProxyType({}),
  ):
    """publish: has all see what has been written to the folder, where that is not enough.

    kept_in: the workdir as the user knows it, where the folder is a copy of it.
    """
    self.experiment, self.method = experiment, experiment.method
    self.config, self.folder, self.devices = config, folder, devices
    self.publish, self.kept_in = publish or (lambda: None), kept_in or folder
    self.failed, self.over_seeds = failed, config['seeds'] > 1
    self.seeds = [seed for seed in all_seeds(config) if seed not in failed]

  def keys(self, stream: int) -> list[jax.Array]:
    """The key of a stream of random numbers, for each seed."""
    return [jax.random.fold_in(jax.random.key(seed), stream) for seed in self.seeds]

  def key(self, stream: int) -> jax.Array:
    """The same as the compiled functions take it."""
    return self.stack(self.keys(stream))

  def stack(self, trees: Sequence):
    """The trees of all seeds as one."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees) if self.over_seeds else trees[0]

  def unstack(self, tree, axis: int = 0) -> list:
    """The tree of each seed, of one with the seeds on this axis."""
    if not self.over_seeds:
      return [tree]
    before = (slice(None),) * axis
    return [jax.tree.map(lambda leaf, i=i: leaf[*before, i], tree) for i in range(len(self.seeds))]

  def tag(self, seed: int) -> int | None:
    """The seed as the files name it: not at all, where there is but one."""
    return seed if self.over_seeds else None

  def of_seed(self, seed: int) -> 'Tools':
    """Those of a run of this seed alone."""
    config = self.config | {'seed': seed, 'seeds': 1}
    return Tools(self.experiment, config, self.folder, self.devices)

  def over_split(self, f: Callable) -> Callable:
    """f over a split: see `make_map`."""
    batch_size = self.config['evaluation']['batch_size']
    return self._as_list(make_map, f, self.experiment.observe, batch_size)

  def _as_list(self, make: Callable, *arguments) -> Callable:
    made = make(*arguments, self.devices, self.over_seeds)
    return made if self.over_seeds else lambda *arguments: [made(*arguments)]

  def initial_state(self) -> training.TrainState:
    """The state before the first step."""
    split, optimizer = self.experiment.dataset.train, self.experiment.optimizer
    batch = Batch(split.x[:1], split.label[:1], np.zeros(1, np.int32))
    is_averaged = self.config['training']['ema_decay'] > 0
    return self.stack(
      [training.init(key, self.method, optimizer, batch, is_averaged) for key in self.keys(INIT)]
    )

  def state_shapes(self) -> training.TrainState:
    """The shapes and types of a state, as a template for those that are restored."""
    return jax.eval_shape(self.initial_state)

  def living(self, state: training.TrainState, step: int) -> tuple['Tools', training.TrainState]:
    """What there is of the seeds that have come to `step`, and their part of the replicated state.

    A seed that has met a step which is not finite stays before it for ever.
    """
    steps = np.atleast_1d(parallel.unreplicate(state.step))
    if np.all(steps == step):
      return self, state
    failed = {s: int(at) + 1 for s, at in zip(self.seeds, steps, strict=True) if at != step}
    left = jax.tree.map(lambda leaf: leaf[steps == step], parallel.unreplicate(state))
    tools = Tools(
      self.experiment, self.config, self.folder, self.devices, self.publish, self.kept_in, failed
    )
    return tools, parallel.replicate(left, self.devices)

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
      section['gradient_accumulation'],
      self.over_seeds,
    )

  def dispatches(
    self, state: training.TrainState, first_step: int = 0, num_steps: int | None = None
  ) -> Iterator[training.Progress]:
    """Trains the replicated state from first_step to num_steps: see `training.loop`.

    num_steps: None for those of the config.
    """
    section = self.config['training']
    return training.loop(
      self.dispatch,
      state,
      self.key(TRAIN),
      self.experiment.dataset.train,
      first_step=first_step,
      num_steps=num_steps or section['num_steps'],
      steps_per_dispatch=section['steps_per_dispatch'],
      batch_size=section['batch_size'],
      seed=self.seeds if self.over_seeds else self.seeds[0],
      devices=self.devices,
    )

  @functools.cached_property
  def scores(self) -> Callable:
    """The bound's terms of each example; without a likelihood its scores, or those of the loss."""
    last_step = self.config['training']['num_steps']

    def test_loss(variables, keys, batch: Batch):
      return self.method.loss(variables, keys, batch, last_step)

    return self.over_split(self.method.log_likelihood_bound or self.method.scores or test_loss)

  @functools.cached_property
  def posteriors(self) -> Callable:
    """q(z | x) over a split, of a method with a code."""
    return self.over_split(
      lambda variables, keys, batch: self.method.code.posterior(variables, batch.x)
    )

  @functools.cached_property
  def statistics(self) -> Callable:
    """`Method.statistics` over a split."""
    return self.over_split(self.method.statistics)

  def in_batches(self, f: Callable) -> Callable:
    """f, as `Method.sample` is, in batches: see `make_sampler`."""
    return self._as_list(make_sampler, f, self.config['sampling']['batch_size'])

  @functools.cached_property
  def sampler(self) -> Callable:
    """`Method.sample` in batches."""
    return self.in_batches(self.method.sample)

  @functools.cached_property
  def chains(self) -> Callable:
    """`Method.trajectory` in batches."""
    return self.in_batches(self.method.trajectory)

  def labels(self, num: int) -> np.ndarray:
    """The classes in turn, for methods that know them."""
    return np.arange(num, dtype=np.int32) % self.experiment.dataset.num_classes

  def draw(self, variables: Variables, num: int) -> list[np.ndarray]:
    """`num` samples of each seed, on the data's own levels."""
    return self.sampler(variables, self.key(SAMPLE), self.labels(num))

  def draw_chains(self, variables: Variables, num: int) -> list[dict[str, np.ndarray]]:
    """The chains behind the samples of `draw`: {'x': [num, S+1, ...], 'log_snr': [num, S+1]}."""
    return self.chains(variables, self.key(SAMPLE), self.labels(num))

  def sampling_seconds(self, variables: Variables) -> float:
    """The time that one batch of samples takes, per 1,000 samples, in seconds."""
    num = self.config['sampling']['batch_size']
    self.draw(variables, num)  # compiles
    start = time.monotonic()
    self.draw(variables, num)
    return (time.monotonic() - start) * 1000 / (num * len(self.seeds))

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
    fitted = self.stack(
      [self.method.fit(found) for found in self.statistics(variables, self.key(FIT), split)]
    )
    return variables._replace(fitted=parallel.replicate(fitted, self.devices))


def all_seeds(config: Mapping) -> range:
  """The seeds that a config trains, each as a run with that seed alone."""
  return range(config['seed'], config['seed'] + config['seeds'])
