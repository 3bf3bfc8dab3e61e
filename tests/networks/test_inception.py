"""InceptionV3 of the FID: features against those of PyTorch, and the files of weights."""

import os
import pickle
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaediff.errors import InputError
from vaediff.networks import inception


def pseudo_random_state():
  """A state dict of the real one's names and shapes, He-normal kernels, gains about 1."""
  rng = np.random.default_rng(0)
  state = {}
  for name, (kh, kw, channels, features) in sorted(inception.kernel_shapes().items()):
    scale = np.sqrt(2 / (kh * kw * channels))
    state[f'{name}.conv.weight'] = scale * rng.standard_normal((features, channels, kh, kw))
    state[f'{name}.bn.weight'] = rng.uniform(0.5, 1.5, features)
    state[f'{name}.bn.bias'] = rng.uniform(-0.2, 0.2, features)
    state[f'{name}.bn.running_mean'] = rng.uniform(-0.2, 0.2, features)
    state[f'{name}.bn.running_var'] = rng.uniform(0.5, 1.5, features)
  return {name: array.astype(np.float32) for name, array in state.items()}


def test_features_are_those_of_pytorch():
  """Features 130, 386, ... (they span the last block's branches) of two pictures.

  Expected: pytorch-fid 0.3.0's `InceptionV3`, built without its weights, with torch 2.13.0: this
  state dict loaded into it (strictly, but for `fc` and the counts of batches), the pictures divided
  by 255, in float64. One side of the pictures is larger than 299, the other smaller.
  """
  x = np.random.default_rng(1).integers(0, 256, (2, 320, 20, 3), dtype=np.uint8)
  features = jax.jit(inception.features)(inception.from_state_dict(pseudo_random_state()), x)
  assert features.shape == (2, inception.NUM_FEATURES)
  assert features.dtype == jnp.float32
  expected = np.array(
    [
      [0.28776273, 0.31142794],
      [4.62109184, 4.56429622],
      [1.69786719, 1.6999921],
      [13.4210752, 13.72548039],
      [0.09453052, 0.10325569],
      [1.82828032, 1.77945859],
      [0.54243963, 0.43001047],
      [0.3570921, 0.3355306],
    ]
  ).T
  np.testing.assert_allclose(features[:, 130::256], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ('dtype', 'shape'), [(np.float32, (1, 8, 8, 3)), (np.uint8, (1, 8, 8, 1)), (np.uint8, (8, 8, 3))]
)
def test_other_pictures_are_refused(dtype, shape):
  with pytest.raises(ValueError, match=r'give uint8 \[B, H, W, 3\]'):
    inception.features({}, np.zeros(shape, dtype))


def test_batch_normalisation_is_folded(monkeypatch):
  """gain (W x - mean) / sqrt(var + 1e-3) + shift, for a single 1 x 1 convolution."""
  monkeypatch.setattr(inception, 'kernel_shapes', lambda: {'a': (1, 1, 2, 3)})
  rng = np.random.default_rng(0)
  gain, shift, mean, var = rng.uniform(0.001, 1, (4, 3))
  weight, x = rng.normal(size=(3, 2)), rng.normal(size=2)
  state = {
    'a.conv.weight': weight[:, :, None, None],
    'a.bn.weight': gain,
    'a.bn.bias': shift,
    'a.bn.running_mean': mean,
    'a.bn.running_var': var,
  }
  folded = inception.from_state_dict(state)['a']
  expected = gain * (weight @ x - mean) / np.sqrt(var + 1e-3) + shift
  np.testing.assert_allclose(x @ folded['kernel'][0, 0] + folded['bias'], expected, rtol=1e-5)


def test_shapes_of_kernels():
  """94 convolutions of 21.8 million weights; of each kind of block, one that only it has."""
  shapes = inception.kernel_shapes()
  assert len(shapes) == 94
  assert sum(map(np.prod, shapes.values())) == 21_751_136
  assert shapes['Conv2d_1a_3x3'] == (3, 3, 3, 32)
  assert shapes['Mixed_5d.branch5x5_2'] == (5, 5, 48, 64)
  assert shapes['Mixed_6c.branch7x7dbl_2'] == (7, 1, 160, 160)
  assert shapes['Mixed_7c.branch_pool'] == (1, 1, 2048, 192)


def test_npz_is_read(tmp_path):
  np.savez(tmp_path / 'weights.npz', a=np.arange(3.0))
  state = inception.read_state_dict(tmp_path / 'weights.npz')
  np.testing.assert_array_equal(state['a'], [0, 1, 2])


class Command:
  def __reduce__(self):
    return os.mkdir, ('executed',)


def damaged(path, kind):
  np.savez(path, a=np.arange(1000.0))
  whole = path.read_bytes()
  if kind == 'objects':
    np.savez(path, a=np.array([Command()], object))
  elif kind == 'absent':
    path.unlink()
  else:
    content = {
      'empty': b'',
      'text': b'not weights\n',
      'a command': pickle.dumps(Command()),
      'cut short': whole[: len(whole) // 2],
      'one array': whole[whole.index(b'\x93NUMPY') :],
    }
    path.write_bytes(content[kind])


@pytest.mark.parametrize(
  'kind', ['absent', 'empty', 'text', 'objects', 'a command', 'cut short', 'one array']
)
def test_what_is_no_file_of_weights_is_refused_and_not_executed(kind, tmp_path, monkeypatch):
  damaged(tmp_path / 'weights.npz', kind)
  monkeypatch.chdir(tmp_path)
  with pytest.raises(InputError, match=r'weights\.npz holds no weights') as error:
    inception.load(tmp_path / 'weights.npz')
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'executed').exists()


@pytest.mark.parametrize('name', ['weights.pth', 'weights.pt'])
def test_files_of_pytorch_are_not_loaded(name, tmp_path, monkeypatch):
  """The line has the command that converts them, which is Python that can be run."""
  (tmp_path / name).write_bytes(pickle.dumps(Command()))
  monkeypatch.chdir(tmp_path)
  with pytest.raises(InputError, match='never loaded') as error:
    inception.load(tmp_path / name)
  assert not (tmp_path / 'executed').exists()
  command = str(error.value).split('python -c "')[1].removesuffix('"')
  assert 'weights_only=True' in command
  tensor = types.SimpleNamespace(numpy=lambda: np.arange(3.0))
  torch = types.SimpleNamespace(load=lambda path, weights_only: {'a': tensor})
  monkeypatch.setitem(sys.modules, 'torch', torch)
  exec(command)
  state = inception.read_state_dict(tmp_path / 'weights.npz')
  np.testing.assert_array_equal(state['a'], [0, 1, 2])


def test_other_weights_are_refused(tmp_path):
  np.savez(tmp_path / 'weights.npz', line=np.arange(3.0))
  with pytest.raises(InputError, match=r'weights\.npz: Conv2d_1a_3x3\.conv\.weight is missing'):
    inception.load(tmp_path / 'weights.npz')
  np.savez(tmp_path / 'weights.npz', **{'Conv2d_1a_3x3.conv.weight': np.zeros((64, 3, 7, 7))})
  with pytest.raises(InputError, match=r'has shape \(64, 3, 7, 7\) instead of \(32, 3, 3, 3\)'):
    inception.load(tmp_path / 'weights.npz')
