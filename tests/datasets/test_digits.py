"""digits: the same as scikit-learn's arrays, however and by however many processes prepared."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from vaediff.data import load
from vaediff.datasets import digits
from vaediff.errors import InputError

# The same Python random state in every process, as a launcher that seeds all of them alike has it.
LOAD = """
import random, sys
sys.path.insert(0, sys.argv[2])  # where importing tensorflow fails
import sklearn.datasets
import vaediff.data, vaediff.datasets.digits
random.seed(0)
print('ready', flush=True)
sys.stdin.readline()
print(len(vaediff.data.load('digits', sys.argv[1]).train.x))
"""


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """A folder in which three processes have loaded digits, all at once and without TensorFlow."""
  folder = tmp_path_factory.mktemp('digits') / 'not' / 'there' / 'yet'
  no_tensorflow = tmp_path_factory.mktemp('no_tensorflow')
  (no_tensorflow / 'tensorflow.py').write_text('raise AssertionError("imported TensorFlow")')
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', LOAD, folder, no_tensorflow],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for _ in range(3)
  ]
  for process in processes:
    assert process.stdout.readline() == 'ready\n', process.stderr.read()
  for process in processes:
    process.stdin.write('\n')
    process.stdin.flush()
  for process in processes:
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, '')  # all succeed, and none draws progress bars
    assert stdout == '1500\n'
  return folder


def test_concurrent_preparation_leaves_one_copy(data_dir):
  assert [path.name for path in data_dir.iterdir()] == ['digits']
  assert [path.name for path in (data_dir / 'digits').iterdir()] == ['1.0.0']


def test_equals_scikit_learn_in_index_order(data_dir):
  dataset = load('digits', data_dir)
  original = load_digits()
  assert (dataset.name, dataset.num_levels, dataset.num_classes) == ('digits', 17, 10)
  assert (dataset.train.name, dataset.evaluation.name) == ('train', 'test')
  assert dataset.train.x.shape == (1500, 8, 8, 1)
  assert dataset.evaluation.x.shape == (297, 8, 8, 1)
  x = np.concatenate([dataset.train.x, dataset.evaluation.x])
  label = np.concatenate([dataset.train.label, dataset.evaluation.label])
  assert (x.dtype, label.dtype) == (np.uint8, np.int32)
  np.testing.assert_array_equal(x[..., 0], original.images)
  np.testing.assert_array_equal(label, original.target)


def test_validation_is_the_last_sixth_of_training(data_dir):
  whole = load('digits', data_dir).train
  held_out = load('digits', data_dir, evaluation_split='validation')
  assert held_out.evaluation.name == 'validation'
  np.testing.assert_array_equal(held_out.train.x, whole.x[:1250])
  np.testing.assert_array_equal(held_out.train.label, whole.label[:1250])
  np.testing.assert_array_equal(held_out.evaluation.x, whole.x[1250:])
  np.testing.assert_array_equal(held_out.evaluation.label, whole.label[1250:])


def test_prepared_on_first_use_in_the_environments_folder_then_kept(tmp_path, monkeypatch, capfd):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  first = load('digits')
  assert capfd.readouterr() == ('', '')
  info = tmp_path / 'digits' / '1.0.0' / 'dataset_info.json'
  written = info.stat().st_mtime_ns
  np.testing.assert_array_equal(load('digits').train.x, first.train.x)
  assert info.stat().st_mtime_ns == written


def test_prepared_in_the_home_folder_without_an_environment(tmp_path, monkeypatch):
  monkeypatch.delenv('TFDS_DATA_DIR', raising=False)
  monkeypatch.setenv('HOME', str(tmp_path))
  load('digits')
  assert (tmp_path / 'tensorflow_datasets' / 'digits' / '1.0.0').is_dir()


def test_unwritable_folder(tmp_path):
  (tmp_path / 'file').touch()  # a mode would not stop a superuser
  with pytest.raises(InputError, match=r'cannot write .*Not a directory.*TFDS_DATA_DIR') as info:
    digits.prepare(tmp_path / 'file' / 'data')
  assert '\n' not in str(info.value)
