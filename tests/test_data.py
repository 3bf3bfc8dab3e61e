"""Reading prepared data sets, the order of examples, batches that cover, binarisation."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from vaediff import data, random
from vaediff.errors import InputError

X = np.random.default_rng(0).integers(0, 256, (1030, 28, 28, 1)).astype(np.uint8)
LABEL = np.arange(1030) % 10


class StandIn(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A small data set in MNIST's name and form: 1018 training and 12 test pictures of noise."""

  name = 'mnist'
  VERSION = tfds.core.Version('3.0.1')

  def _info(self):
    features = tfds.features.FeaturesDict(
      {
        'image': tfds.features.Image(shape=(28, 28, 1)),
        'label': tfds.features.ClassLabel(num_classes=10),
      }
    )
    return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

  def _split_generators(self, dl_manager):
    return {
      'train': self._generate_examples(range(1018)),
      'test': self._generate_examples(range(1018, 1030)),
    }

  def _generate_examples(self, examples):
    for i in examples:  # a Pillow image is encoded without TensorFlow, an array is not
      yield i, {'image': PIL.Image.fromarray(X[i, ..., 0]), 'label': int(LABEL[i])}


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp('prepared')
  StandIn(data_dir=folder, file_format='array_record').download_and_prepare()
  return folder


@pytest.fixture
def data_dir(prepared, tmp_path):
  """A copy that a test may spoil."""
  shutil.copytree(prepared / 'mnist', tmp_path / 'mnist')
  return tmp_path


def input_error(*arguments, **options):
  """The one-line message with which `load` refuses."""
  with pytest.raises(InputError) as info:
    data.load(*arguments, **options)
  assert '\n' not in str(info.value)
  return str(info.value)


def test_reads_pictures_in_stored_order(prepared):
  dataset = data.load('mnist', prepared)
  assert (dataset.name, dataset.num_levels, dataset.num_classes) == ('mnist', 256, 10)
  for split, name, part in [
    (dataset.train, 'train', slice(0, 1018)),
    (dataset.evaluation, 'test', slice(1018, 1030)),
  ]:
    assert (split.name, split.x.dtype, split.label.dtype) == (name, np.uint8, np.int32)
    np.testing.assert_array_equal(split.x, X[part])
    np.testing.assert_array_equal(split.label, LABEL[part])


def test_validation_is_the_last_sixth_of_training(prepared):
  dataset = data.load('mnist', prepared, evaluation_split='validation')
  assert (dataset.train.name, dataset.evaluation.name) == ('train', 'validation')
  np.testing.assert_array_equal(dataset.train.x, X[:849])
  np.testing.assert_array_equal(dataset.evaluation.x, X[849:1018])
  np.testing.assert_array_equal(dataset.evaluation.label, LABEL[849:1018])


def test_environment_names_the_folder_and_an_argument_comes_first(prepared, tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(prepared))
  assert len(data.load('mnist').train.x) == 1018
  assert str(tmp_path) in input_error('mnist', tmp_path)


def test_newest_version_is_read(data_dir):
  newest = data_dir / 'mnist' / '10.0.0'
  shutil.copytree(data_dir / 'mnist' / '3.0.1', newest)
  (newest / 'mnist-test.array_record-00000-of-00001').unlink()
  assert '10.0.0' in input_error('mnist', data_dir)


def test_missing_data_set_names_the_place_and_the_remedy(tmp_path):
  message = input_error('mnist', tmp_path)
  assert f'there is no {tmp_path}/mnist/VERSION/dataset_info.json' in message
  assert 'TFDS_DATA_DIR or --config.data.data_dir' in message
  assert "pip install 'vaediff[tensorflow]' && python -c" in message
  assert (
    f"tfds.builder('mnist', data_dir='{tmp_path}', file_format='array_record')"
    '.download_and_prepare()' in message
  )


@pytest.mark.parametrize('kept', [0.0, 0.3, 0.95])
def test_truncated_file(data_dir, kept):
  path = data_dir / 'mnist' / '3.0.1' / 'mnist-train.array_record-00000-of-00001'
  path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
  message = input_error('mnist', data_dir)
  assert 'damaged or incomplete' in message
  assert 'download_and_prepare' in message


def test_spoilt_bytes(data_dir):
  path = data_dir / 'mnist' / '3.0.1' / 'mnist-train.array_record-00000-of-00001'
  content = bytearray(path.read_bytes())
  content[100_000:100_010] = bytes(10)
  path.write_bytes(content)
  assert 'damaged or incomplete' in input_error('mnist', data_dir)


def test_spoilt_description(data_dir):
  (data_dir / 'mnist' / '3.0.1' / 'dataset_info.json').write_text('{"name')
  assert 'damaged or incomplete' in input_error('mnist', data_dir)


def test_other_file_format(data_dir):
  info = data_dir / 'mnist' / '3.0.1' / 'dataset_info.json'
  info.write_text(json.dumps(json.loads(info.read_text()) | {'fileFormat': 'tfrecord'}))
  message = input_error('mnist', data_dir)
  assert 'stored as tfrecord' in message
  assert 'only array_record' in message


def test_unknown_names():
  message = input_error('mnits')
  assert "did you mean 'mnist'?" in message
  assert 'digits, mnist, fashion_mnist, cifar10' in message
  assert "did you mean 'validation'?" in input_error('digits', evaluation_split='valid')


def test_importing_is_light():
  subprocess.run(
    [
      sys.executable,
      '-c',
      'import sys, vaediff.data\n'
      "assert not {'tensorflow_datasets', 'sklearn', 'PIL'} & set(sys.modules)",
    ],
    check=True,
  )


@pytest.mark.parametrize('num_examples', [1, 2, 10, 1500])
def test_each_example_once_per_epoch(num_examples):
  stream = data.indices(0, 0, 4 * num_examples, num_examples)
  assert stream.dtype == np.int64
  for epoch in stream.reshape(4, num_examples):
    np.testing.assert_array_equal(np.sort(epoch), np.arange(num_examples))


def test_order_differs_between_epochs_and_seeds():
  orders = [
    data.indices(seed, epoch * 100, 100, 100).tolist() for seed in range(3) for epoch in range(3)
  ]
  assert len(set(map(tuple, orders))) == 9


def test_random_access_is_sequential_access():
  stream = data.indices(7, 0, 100, 13)
  for first in range(60):
    for count in (0, 1, 5, 13, 14, 40):  # batches straddle epochs, or span several
      np.testing.assert_array_equal(
        data.indices(7, first, count, 13), stream[first : first + count]
      )
  far = 10**12
  np.testing.assert_array_equal(data.indices(7, far, 9, 13)[4:], data.indices(7, far + 4, 5, 13))


def test_order_is_fixed_for_ever():
  """A resumed run must see the order of the run that it resumes, under any NumPy."""
  assert data.indices(1, 0, 10, 5).tolist() == [3, 2, 0, 1, 4, 0, 3, 4, 2, 1]


def test_changing_a_result_leaves_the_stream():
  first = data.indices(0, 0, 10, 10)
  expected = first.copy()
  first[:] = 0
  np.testing.assert_array_equal(data.indices(0, 0, 10, 10), expected)


@pytest.mark.parametrize('num_examples', [1, 7, 8, 9, 297])
@pytest.mark.parametrize('batch_size', [1, 8, 100])
def test_padded_batches_cover_once(num_examples, batch_size):
  batches = list(data.padded_batches(num_examples, batch_size))
  assert len(batches) == -(-num_examples // batch_size)
  for index, valid in batches:
    assert index.shape == valid.shape == (batch_size,)
    assert index.max() < num_examples
  covered = np.concatenate([index[valid] for index, valid in batches])
  np.testing.assert_array_equal(covered, np.arange(num_examples))


def assert_frequency(ones, draws, probability, log_false_alarm):
  """By Chernoff's bound (lecture section 3.2), P(draws x KL > c) <= 2 e^{-c} for fair draws."""
  frequency = np.asarray(ones, np.float64) / draws
  with np.errstate(divide='ignore', invalid='ignore'):
    kl = np.nan_to_num(frequency * np.log(frequency / probability)) + np.nan_to_num(
      (1 - frequency) * np.log((1 - frequency) / (1 - probability))
    )
  np.testing.assert_array_less(draws * kl, np.log(2) - log_false_alarm)


@pytest.mark.parametrize('num_levels', [2, 17, 256])
def test_binarize_frequencies(num_levels):
  """False alarm below 1e-6 in each case, over seeds."""
  draws_per_key = 64
  levels = np.arange(num_levels, dtype=np.uint8)
  x = np.broadcast_to(levels[:, None], (1024, num_levels, draws_per_key))
  keys = jax.random.split(jax.random.key(0), 1024)
  binary = np.asarray(jax.jit(data.binarize, static_argnums=2)(keys, x, num_levels))
  assert (binary.shape, binary.dtype) == (x.shape, np.uint8)
  assert set(np.unique(binary)) == {0, 1}
  ones = binary.sum((0, 2), dtype=np.int64)
  assert ones[0] == 0
  assert ones[-1] == 1024 * draws_per_key
  probability = levels[1:-1] / (num_levels - 1)
  assert_frequency(ones[1:-1], 1024 * draws_per_key, probability, np.log(1e-6 / num_levels))


@pytest.mark.parametrize('num_levels', [2, 3, 17, 255, 256])
def test_binarize_probability_is_rounded_by_at_most_two_to_the_minus_17(num_levels, monkeypatch):
  """Counts the ones over all 2^16 values that half a random word can take."""
  every = jnp.arange(2**16, dtype=jnp.uint32)[None]
  monkeypatch.setattr(random, 'bits_16', lambda keys, size: every)
  binarize = jax.jit(lambda key, x: data.binarize(key, x, num_levels).sum(dtype=jnp.uint32))
  keys = jax.random.split(jax.random.key(0), 1)
  for level in range(num_levels):
    ones = int(binarize(keys, jnp.full((1, 2**16), level, jnp.uint8)))
    assert abs(ones / 2**16 - level / (num_levels - 1)) <= 2**-17


def test_binarize_pixels_and_pictures_are_independent():
  """Pairs are equal with probability 1/2; false alarm below 1e-6 in all, over seeds."""
  x = np.full((512, 16, 16, 1), 8, np.uint8)
  binary = np.asarray(data.binarize(jax.random.split(jax.random.key(1), 512), x, 17))
  flat = binary.reshape(512, 256)
  for a, b in [
    (flat[:, :128], flat[:, 128:]),  # two halves of one random word
    (flat[:, :64], flat[:, 64:128]),  # two words of one hash
    (flat[:, :-1], flat[:, 1:]),
    (flat[:-1], flat[1:]),
  ]:
    assert_frequency(np.sum(a == b), a.size, 0.5, np.log(1e-6 / 4))


@pytest.mark.parametrize('shape', [(8, 8, 1), (5,)])
def test_binarize_depends_on_the_examples_own_key_alone(shape):
  keys = jax.random.split(jax.random.key(2), 6)
  x = jnp.asarray(np.random.default_rng(0).integers(0, 17, (6, *shape)), jnp.uint8)
  binarize = jax.jit(data.binarize, static_argnums=2)
  together = binarize(keys, x, 17)
  apart = jnp.concatenate([binarize(keys[i : i + 1], x[i : i + 1], 17) for i in range(6)])
  np.testing.assert_array_equal(together, apart)


def test_binarize_redraws_with_another_key():
  x = np.full((2, 64), 8, np.uint8)
  key = jax.random.key(3)
  first, second = data.binarize(jnp.stack([key, jax.random.fold_in(key, 1)]), x, 17)
  assert not np.array_equal(first, second)


def test_level_frequencies_count_each_level_once_more():
  x = np.array([[0, 0, 0], [2, 2, 1]], np.uint8)
  np.testing.assert_allclose(data.level_frequencies(x, 4), np.array([4, 2, 3, 1]) / 10)
