"""Data: prepared TFDS data sets as arrays, the order of examples in training, binarisation.

Nothing here imports TensorFlow, and TFDS itself only when a data set is loaded.
"""

import difflib
import functools
import io
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaediff import random
from vaediff.errors import InputError

NUM_LEVELS = {'digits': 17, 'mnist': 256, 'fashion_mnist': 256, 'cifar10': 256}
EVALUATION_SPLITS = ('test', 'validation')


class Split(NamedTuple):
  """Examples of one split.

  name: 'train', 'validation' or 'test'.
  x: uint8 [N, H, W, C], levels 0 to num_levels - 1.
  label: int32 [N], -1 where there is none.
  """

  name: str
  x: np.ndarray
  label: np.ndarray


class Dataset(NamedTuple):
  """A data set in memory; `train` and `evaluation` have no example in common."""

  name: str
  num_levels: int
  num_classes: int
  train: Split
  evaluation: Split


def load(
  name: str, data_dir: str | os.PathLike | None = None, evaluation_split: str = 'test'
) -> Dataset:
  """Reads a prepared data set (array_record files); digits is prepared on first use.

  name: one of NUM_LEVELS. data_dir: TFDS's folder of data sets; without it the environment's
  TFDS_DATA_DIR, else ~/tensorflow_datasets. evaluation_split: 'test' is the whole test split;
  'validation' is the last sixth of the training split (10,000 of MNIST's 60,000, 250 of digits'
  1,500), which `train` then lacks.

  Raises InputError where a name is unknown, and where the data set is not there, not in
  array_record files, or damaged.
  """
  _check_choice('data set', name, NUM_LEVELS)
  _check_choice('evaluation split', evaluation_split, EVALUATION_SPLITS)
  root = Path(data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets').expanduser()
  if name == 'digits':
    from vaediff.datasets import digits

    path = digits.prepare(root)
    remedy = f'delete {path}, and the next run prepares it again'
  else:
    remedy = (
      'point TFDS_DATA_DIR or --config.data.data_dir at a prepared copy, or prepare it: '
      "pip install 'vaediff[tensorflow]' && python -c \"import tensorflow_datasets as tfds; "
      f'tfds.builder({name!r}, data_dir={str(root)!r}, '
      "file_format='array_record').download_and_prepare()\""
    )
    path = _newest_version(root / name)
    if path is None:
      raise InputError(
        f'data set {name} is not prepared: there is no {root / name}/VERSION/dataset_info.json; '
        + remedy
      )
  num_classes, train, test = _read(name, path, remedy)
  if evaluation_split == 'test':
    evaluation = test
  else:
    kept = len(train.x) - len(train.x) // 6
    evaluation = Split('validation', train.x[kept:], train.label[kept:])
    train = Split('train', train.x[:kept], train.label[:kept])
  return Dataset(name, NUM_LEVELS[name], num_classes, train, evaluation)


def _check_choice(kind: str, value: str, allowed) -> None:
  if value not in allowed:
    nearest = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.0)[0]
    raise InputError(
      f'unknown {kind} {value!r}; known are {", ".join(allowed)}; did you mean {nearest!r}?'
    )


def _newest_version(folder: Path) -> Path | None:
  """The prepared version of a TFDS data set with the highest number, MAJOR.MINOR.PATCH."""
  versions = {}
  for info in folder.glob('*.*.*/dataset_info.json'):
    numbers = info.parent.name.split('.')
    if all(number.isdecimal() for number in numbers):
      versions[tuple(map(int, numbers))] = info.parent
  return versions[max(versions)] if versions else None


def _read(name: str, path: Path, remedy: str) -> tuple[int, Split, Split]:
  """The number of classes, the training split and the test split of the data set in `path`."""
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder_from_directory(path)
    formats = builder.info.available_file_formats()
    if tfds.core.FileFormat.ARRAY_RECORD in formats:
      num_classes = builder.info.features['label'].num_classes
      train, test = _read_split(builder, 'train'), _read_split(builder, 'test')
      for split in (train, test):
        _check_range(split, 'level', split.x, NUM_LEVELS[name])
        _check_range(split, 'label', split.label, num_classes)
      return num_classes, train, test
  except (ImportError, MemoryError):  # the program's installation or machine, not the data
    raise
  except Exception as error:  # TFDS, array_record, protobuf, zlib and Pillow share no base class
    reason = ' '.join(str(error).split())
    raise InputError(
      f'data set {name} in {path} is damaged or incomplete ({type(error).__name__}: {reason}); '
      + remedy
    ) from error
  found = ', '.join(sorted(file_format.value for file_format in formats))
  raise InputError(
    f'data set {name} in {path} is stored as {found or "no known format"}, and only array_record '
    f'can be read; move it away or choose another data_dir, then {remedy}'
  )


def _check_range(split: Split, kind: str, values: np.ndarray, below: int) -> None:
  """Raises ValueError where there are no values, or some outside 0, ..., below - 1."""
  if not values.size:
    raise ValueError(f'the split {split.name} has no examples')
  for value in (values.min(), values.max()):
    if not 0 <= value < below:
      raise ValueError(f'the split {split.name} has the {kind} {value}, not 0 to {below - 1}')


def _read_split(builder, name: str) -> Split:
  """Reads and decodes one split, a thousand examples at a time.

  The stored records are parsed here, because TFDS decodes one example after the other through its
  whole feature tree, which takes longer than the decompression itself.
  """
  import PIL.Image
  import tensorflow_datasets as tfds
  from tensorflow_datasets.proto import tf_example_pb2

  image = builder.info.features['image']
  source = builder.as_data_source(
    name,
    deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
    file_format='array_record',
  )
  x = np.empty((len(source), *image.shape), np.uint8)
  label = np.empty(len(source), np.int32)
  for start in range(0, len(source), 1000):
    chunk = slice(start, start + 1000)
    records = source.__getitems__(range(len(source))[chunk])
    examples = [tf_example_pb2.Example.FromString(record).features.feature for record in records]
    label[chunk] = [example['label'].int64_list.value[0] for example in examples]
    if isinstance(image, tfds.features.Image):
      pictures = [example['image'].bytes_list.value[0] for example in examples]
      pixels = [np.asarray(PIL.Image.open(io.BytesIO(picture))) for picture in pictures]
      x[chunk] = np.reshape(pixels, (-1, *image.shape))
    else:
      levels = np.array([example['image'].int64_list.value for example in examples], np.uint8)
      x[chunk] = levels.reshape(-1, *image.shape)
  return Split(name, x, label)


def indices(seed: int, first: int, count: int, num_examples: int) -> np.ndarray:
  """Which examples stand at positions first, ..., first + count - 1 of the training stream.

  Position n is place n % num_examples of epoch n // num_examples, and each epoch is a permutation
  of its own, a function of (seed, epoch) alone. So any position can be asked for at any time: there
  is no iterator to checkpoint, every example comes exactly once per epoch, and a batch may
  straddle two epochs. int64 [count]. seed: 0 <= seed < 2^64.
  """
  pieces = [np.empty(0, np.int64)]
  for epoch in range(first // num_examples, -(-(first + count) // num_examples)):
    epoch_first = epoch * num_examples
    places = slice(max(first - epoch_first, 0), first + count - epoch_first)
    pieces.append(_permutation(seed, epoch, num_examples)[places])
  return np.concatenate(pieces)


@functools.lru_cache(maxsize=32)
def _permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
  """A uniformly random permutation: the order of `num_examples` 64-bit Philox numbers.

  NumPy guarantees the raw numbers of a bit generator across its versions, but not what
  `Generator.permutation` makes of them (NEP 19), and a run may be resumed under another NumPy.
  """
  philox = np.random.Philox(key=np.array([seed, epoch], np.uint64))
  return np.argsort(philox.random_raw(num_examples), kind='stable')


def padded_batches(num_examples: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Examples 0, ..., num_examples - 1 once each, in order, in batches of one fixed size.

  Yields (index int64 [batch_size], valid bool [batch_size]); the last batch is filled up with the
  last example, where valid is False.
  """
  for first in range(0, num_examples, batch_size):
    index = np.arange(first, first + batch_size)
    yield np.minimum(index, num_examples - 1), index < num_examples


def binarize(keys: jax.Array, x: jax.Array, num_levels: int) -> jax.Array:
  """Draws each pixel from Bernoulli(x / (num_levels - 1)): dynamic binarisation.

  Burda et al. 2016, "Importance weighted autoencoders" (the protocol of Salakhutdinov & Murray
  2008): the binary picture is drawn again each time that a picture is used.

  keys: [B], typed. x: uint8 levels [B, ...]. Returns uint8 [B, ...] in {0, 1}. An example's draw
  depends on its key alone. The probability is rounded to a multiple of 2^-16, so it is wrong by at
  most 2^-17; it is exact at level 0 (always 0) and at the top level (always 1).
  """
  size, top = math.prod(x.shape[1:]), num_levels - 1
  threshold = (x.astype(jnp.uint32) * 2**16 + top // 2) // top
  drawn = random.bits_16(keys, size).reshape(x.shape) < threshold
  # With the barrier no later operation draws the picture once more for itself.
  return jax.lax.optimization_barrier(drawn.astype(jnp.uint8))


def level_frequencies(x: np.ndarray, num_levels: int) -> np.ndarray:
  """The share of each level in all of x, [num_levels] float64, as if each were seen once more."""
  counts = np.bincount(x.reshape(-1), minlength=num_levels) + 1
  return counts / counts.sum()
