"""What the figures share: the runs that they are computed from, and the file between the halves.

A figure is a module with

  TITLE: its heading. CAPTION: what it shows, one paragraph.
  RUNS: the names of the runs of `configs/paper.py` that it is computed from, without the data set;
    () for one of mathematics alone.
  compute(study) -> {name: array}: all the numbers that it shows, and those of the claims that rest
    on it. An axis of seeds comes first, [S, ...]; pictures are uint8 on 0..255, [N, H, W, C].
  draw(arrays) -> a Matplotlib figure, of these numbers alone.
  animate(arrays) -> frames [H, W, 3] uint8, FRAME_MILLISECONDS each, where it moves.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from experiments import measures, trained, workdir
from vaediff import data, parallel, reporting
from vaediff.errors import InputError
from vaediff.evaluation import quality

# What a .npz says of itself, as JSON in an array.
PROVENANCE = 'provenance'
# Of each seed, wherever samples are compared with data, and of those that a chain ends with: fewer
# of a network that costs more.
NUM_SAMPLES = {'digits': 1_000, 'mnist': 400}
NUM_CHAINS = {'digits': 1_000, 'mnist': 200}


class Study:
  """The finished runs of one data set, and the classifier in whose features pictures are compared.

  dataset: its name. folder: that of the runs. configs: {name of a run: config}.
  """

  def __init__(
    self,
    dataset: str,
    folder: Path,
    configs: Mapping[str, dict],
    devices: Sequence[jax.Device] | None = None,
  ):
    """devices: None for all."""
    self.dataset, self._folder, self._configs = dataset, folder, configs
    self._devices = devices or parallel.all_devices()
    self._runs = {}

  def run(self, name: str) -> trained.Run:
    """A run by its name. Raises InputError where it is not finished."""
    if name not in self._runs:
      self._runs[name] = self._load(name)
    return self._runs[name]

  def _load(self, name: str) -> trained.Run:
    config = self._configs[name]
    folder = self._run_folder(name)
    if not workdir.is_finished(folder, config, ('results.json',)):
      raise InputError(f'{folder} does not hold the finished run that a figure is computed from')
    return trained.load(folder, config, self._devices)

  def _run_folder(self, name: str) -> Path:
    return workdir.named(self._folder, f'{self.dataset}_{name}', self._configs[name])

  @property
  def num_samples(self) -> int:
    """Of each seed, wherever samples are compared with data."""
    return NUM_SAMPLES[self.dataset]

  @property
  def num_chains(self) -> int:
    """The same, where a sample is the end of a chain."""
    return NUM_CHAINS[self.dataset]

  @property
  def train(self) -> data.Split:
    return self.run('classifier').tools.experiment.dataset.train

  @property
  def held_out(self) -> data.Split:
    """The evaluation split."""
    return self.run('classifier').tools.experiment.dataset.evaluation

  def as_bytes(self, x: np.ndarray) -> np.ndarray:
    """Pictures on the data's levels, on 0..255."""
    num_levels = self.run('classifier').tools.experiment.num_levels
    return np.round(x * (255 / (num_levels - 1))).astype(np.uint8)

  @functools.cached_property
  def _describe(self) -> Callable:
    return measures.load_classifier(
      self._configs['vae'] | {'quality': {'classifier': str(self._run_folder('classifier'))}},
      self._devices,
    )

  @functools.cached_property
  def _halves(self) -> tuple[np.ndarray, np.ndarray]:
    """Two parts of the training split without an example in common, as indices."""
    num = min(len(self.train.x) // 2, self.num_samples)
    order = np.random.default_rng(0).permutation(len(self.train.x))
    return order[:num], order[num : 2 * num]

  @property
  def others(self) -> data.Split:
    """The other training pictures of `frechet_floor`."""
    _, index = self._halves
    return data.Split('others', self.train.x[index], self.train.label[index])

  @functools.cached_property
  def _features(self) -> np.ndarray:
    return self._describe(self.train.x)['features']

  def frechet_distances(self, of_seeds: Sequence[np.ndarray]) -> np.ndarray:
    """Of samples to as many training pictures, in the features of the classifier, [S]."""
    return self._compare(lambda real, fake: quality.frechet_distance(real, fake).value, of_seeds)

  def recalls(self, of_seeds: Sequence[np.ndarray]) -> np.ndarray:
    """The share of as many training pictures that samples cover, in the same features, [S]."""
    return self._compare(
      lambda real, fake: quality.neighbour_measures(real, fake)['recall'].value, of_seeds
    )

  def _compare(self, measure: Callable, of_seeds: Sequence[np.ndarray]) -> np.ndarray:
    half, _ = self._halves
    fakes = [self._describe(np.asarray(x[: len(half)]))['features'] for x in of_seeds]
    return np.array([measure(self._features[half[: len(fake)]], fake) for fake in fakes])

  def frechet_floor(self, num: int) -> np.ndarray:
    """The Frechet distance of so many training pictures to as many others, a scalar."""
    real, other = (self._features[half[:num]] for half in self._halves)
    return np.array(quality.frechet_distance(real, other).value)

  def sharpness(self, of_seeds: Sequence[np.ndarray]) -> np.ndarray:
    """The sharpness of samples, that of real pictures being 1, [S]."""
    half, _ = self._halves
    return np.array([quality.sharpness(self.train.x[half], x).value for x in of_seeds])


def save(path: Path, arrays: Mapping[str, np.ndarray], provenance: Mapping) -> None:
  """Writes arrays as .npz, whole or not at all; equal arrays and provenance make equal files."""
  text = np.array(json.dumps(provenance, sort_keys=True))
  with reporting.replacing(path) as temporary, temporary.open('wb') as file:
    np.savez_compressed(file, **arrays, **{PROVENANCE: text})


def load(path: Path) -> tuple[dict[str, np.ndarray], dict]:
  """The arrays of a .npz, and its provenance. Raises InputError where it is no such file."""
  try:
    with np.load(path, allow_pickle=False) as file:
      arrays = dict(file)
    return arrays, json.loads(str(arrays.pop(PROVENANCE)))
  except (OSError, ValueError, KeyError, EOFError) as error:
    raise InputError(
      f'{path} cannot be read as a figure ({error}); delete it, and it is computed again'
    ) from error
