"""The digits data set: 1,797 real 8x8 scans with 17 grey levels, shipped inside scikit-learn.

Source: E. Alpaydin, C. Kaynak, "Optical recognition of handwritten digits", UCI Machine Learning
Repository, 1998 (its test part, as `sklearn.datasets.load_digits` has it).
"""

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from vaediff.errors import InputError

NUM_TRAIN = 1500


class Digits(tfds.core.GeneratorBasedBuilder):
  """Examples 0-1499 of scikit-learn's order are `train`, 1500-1796 are `test`."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description='8x8 scans of handwritten digits, levels 0 to 16.',
      homepage='https://archive.ics.uci.edu/dataset/80',
      features=tfds.features.FeaturesDict(
        {
          # A Tensor, not an Image: TFDS writes it without TensorFlow.
          'image': tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
          'label': tfds.features.ClassLabel(num_classes=10),
        }
      ),
      disable_shuffling=True,  # else TFDS stores examples in the order of a hash of their keys
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    from sklearn.datasets import load_digits  # a second to import, needed once

    digits = load_digits()
    images = digits.images.astype(np.uint8)[..., None]
    return {
      'train': self._generate_examples(images[:NUM_TRAIN], digits.target[:NUM_TRAIN]),
      'test': self._generate_examples(images[NUM_TRAIN:], digits.target[NUM_TRAIN:]),
    }

  def _generate_examples(self, images, labels) -> Iterator[tuple[int, dict]]:
    for key, (image, label) in enumerate(zip(images, labels)):
      yield key, {'image': image, 'label': int(label)}


def prepare(data_dir: Path) -> Path:
  """Writes digits under data_dir (array_record, no TensorFlow) unless it is there; its folder.

  Several processes may do so at once: each writes a folder of its own and renames it into place,
  and whoever comes second keeps the first one's. Raises InputError where data_dir is not writable.
  """
  path = data_dir / Digits.name / str(Digits.VERSION)
  try:
    if path.exists():
      return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='incomplete.', dir=data_dir) as own:
      builder = Digits(data_dir=own, file_format='array_record')
      silence = io.StringIO()  # TFDS prints two lines and draws progress bars
      with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        builder.download_and_prepare()
      try:
        Path(builder.data_dir).rename(path)
      except OSError:
        if not path.exists():
          raise
  except OSError as error:
    raise InputError(
      f'cannot write the digits data set to {data_dir} ({error.strerror or error}); choose a '
      'writable folder by TFDS_DATA_DIR or --config.data.data_dir'
    ) from error
  logging.info('Prepared digits in %s', path)
  return path
