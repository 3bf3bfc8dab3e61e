"""InceptionV3 as the Fréchet Inception distance uses it: features of colour pictures, no training.

The network is that of Szegedy et al. 2016 in the version of the FID (Heusel et al. 2017):
TensorFlow's graph `inception-2015-12-05`, whose weights are published for PyTorch as
pt_inception-2015-12-05-6726825d.pth. It differs from other InceptionV3 in its pooling: averages do
not count the zeros of the padding, and the last block takes the maximum. The weights are not part
of this package: give `load` an .npz of them.
"""

import os
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vaediff.errors import InputError

NUM_FEATURES = 2048
_SIZE = 299
_BATCH_NORM_EPS = 1e-3


def load(path: str | os.PathLike) -> dict:
  """The parameters of `features` from a file of weights, as `read_state_dict` takes it.

  Raises InputError where the file cannot be read or holds other weights.
  """
  try:
    return from_state_dict(read_state_dict(path))
  except ValueError as error:
    raise InputError(f'{path}: {error}') from error


def from_state_dict(state: dict[str, np.ndarray]) -> dict:
  """{convolution: {'kernel': [kh, kw, Cin, Cout], 'bias': [Cout]}} from PyTorch's names and axes.

  state: for each convolution NAME, NAME.conv.weight [Cout, Cin, kh, kw] and NAME.bn.weight, .bias,
  .running_mean, .running_var [Cout]; more is ignored. The batch normalisation is folded into the
  convolution, in float64. Raises ValueError where an array is missing or has another shape.
  """
  params = {}
  for name, (kh, kw, channels, features) in kernel_shapes().items():
    weight = _take(state, f'{name}.conv.weight', (features, channels, kh, kw))
    gain, shift, mean, var = (
      _take(state, f'{name}.bn.{part}', (features,))
      for part in ('weight', 'bias', 'running_mean', 'running_var')
    )
    scale = gain / np.sqrt(var + _BATCH_NORM_EPS)
    params[name] = {
      'kernel': jnp.asarray(weight.transpose(2, 3, 1, 0) * scale, jnp.float32),
      'bias': jnp.asarray(shift - mean * scale, jnp.float32),
    }
  return params


def features(params: dict, x: jax.Array) -> jax.Array:
  """The last features before the classifier, averaged over the picture: [B, 2048], float32.

  x: uint8 [B, H, W, 3], resized to 299 x 299 (bilinear, no antialiasing, corners not aligned) and
  scaled to [-1, 1]: the input of the PyTorch port, to whose distances ours compare. Raises
  ValueError for another dtype or shape.
  """
  if x.dtype != jnp.uint8 or x.ndim != 4 or x.shape[3] != 3:
    raise ValueError(f'pictures are {x.dtype} {x.shape}; give uint8 [B, H, W, 3]')

  def conv(name, x, features, size, stride=1, padding='SAME'):
    del features, size  # the kernel has them
    y = _convolve(x, params[name]['kernel'], stride, padding)
    return jax.nn.relu(y + params[name]['bias'])

  shape = (x.shape[0], _SIZE, _SIZE, 3)
  x = jax.image.resize(x.astype(jnp.float32) / 255, shape, 'linear', antialias=False)
  return _network(conv, 2 * x - 1)


def kernel_shapes() -> dict[str, tuple[int, int, int, int]]:
  """(kh, kw, Cin, Cout) of each convolution, by its name, in the order of use."""
  shapes = {}

  def conv(name, x, features, size, stride=1, padding='SAME'):
    shapes[name] = (*size, x.shape[3], features)
    return _convolve(x, jnp.zeros(shapes[name]), stride, padding)

  pictures = jax.ShapeDtypeStruct((1, _SIZE, _SIZE, 3), jnp.float32)
  jax.eval_shape(lambda x: _network(conv, x), pictures)
  return shapes


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """{name: array} from an .npz, of which nothing is executed.

  Raises InputError where the file cannot be read. The pickles of PyTorch are not: the line says how
  PyTorch makes an .npz of one.
  """
  path = Path(path)
  if path.suffix in ('.pth', '.pt'):
    raise InputError(
      f'{path} is a file of PyTorch, whose pickles are never loaded; make an .npz of it: python -c '
      f'"import numpy, torch; numpy.savez({str(path.with_suffix(".npz"))!r}, **{{name: '
      f'tensor.numpy() for name, tensor in torch.load({str(path)!r}, weights_only=True).items()}})"'
    )
  try:
    with np.load(path, allow_pickle=False) as file:
      return dict(file)
  except Exception as error:  # a damaged archive may raise anything
    raise InputError(
      f'{path} holds no weights that can be read ({error!r}); give an .npz of the arrays'
    ) from error


def _network(conv: Callable, x):
  """The network, given conv(name, x, features, size, stride, padding), which ends in a ReLU."""
  x = conv('Conv2d_1a_3x3', x, 32, (3, 3), 2, 'VALID')
  x = conv('Conv2d_2a_3x3', x, 32, (3, 3), 1, 'VALID')
  x = conv('Conv2d_2b_3x3', x, 64, (3, 3))
  x = _max_pool(x, 2, 'VALID')
  x = conv('Conv2d_3b_1x1', x, 80, (1, 1))
  x = conv('Conv2d_4a_3x3', x, 192, (3, 3), 1, 'VALID')
  x = _max_pool(x, 2, 'VALID')
  for block, num_pooled in (('5b', 32), ('5c', 64), ('5d', 64)):
    x = _block_a(_within(conv, f'Mixed_{block}'), x, num_pooled)
  x = _block_b(_within(conv, 'Mixed_6a'), x)
  for block, width in (('6b', 128), ('6c', 160), ('6d', 160), ('6e', 192)):
    x = _block_c(_within(conv, f'Mixed_{block}'), x, width)
  x = _block_d(_within(conv, 'Mixed_7a'), x)
  x = _block_e(_within(conv, 'Mixed_7b'), x, _average_pool)
  x = _block_e(_within(conv, 'Mixed_7c'), x, lambda x: _max_pool(x, 1, 'SAME'))
  return jnp.mean(x, axis=(1, 2))


def _within(conv, block):
  return lambda name, *args: conv(f'{block}.{name}', *args)


def _block_a(conv, x, num_pooled):
  wide = conv('branch5x5_2', conv('branch5x5_1', x, 48, (1, 1)), 64, (5, 5))
  double = conv('branch3x3dbl_2', conv('branch3x3dbl_1', x, 64, (1, 1)), 96, (3, 3))
  double = conv('branch3x3dbl_3', double, 96, (3, 3))
  pooled = conv('branch_pool', _average_pool(x), num_pooled, (1, 1))
  return _join(conv('branch1x1', x, 64, (1, 1)), wide, double, pooled)


def _block_b(conv, x):
  double = conv('branch3x3dbl_2', conv('branch3x3dbl_1', x, 64, (1, 1)), 96, (3, 3))
  double = conv('branch3x3dbl_3', double, 96, (3, 3), 2, 'VALID')
  return _join(conv('branch3x3', x, 384, (3, 3), 2, 'VALID'), double, _max_pool(x, 2, 'VALID'))


def _block_c(conv, x, width):
  once = conv('branch7x7_2', conv('branch7x7_1', x, width, (1, 1)), width, (1, 7))
  once = conv('branch7x7_3', once, 192, (7, 1))
  twice = conv('branch7x7dbl_2', conv('branch7x7dbl_1', x, width, (1, 1)), width, (7, 1))
  twice = conv('branch7x7dbl_4', conv('branch7x7dbl_3', twice, width, (1, 7)), width, (7, 1))
  twice = conv('branch7x7dbl_5', twice, 192, (1, 7))
  pooled = conv('branch_pool', _average_pool(x), 192, (1, 1))
  return _join(conv('branch1x1', x, 192, (1, 1)), once, twice, pooled)


def _block_d(conv, x):
  small = conv('branch3x3_2', conv('branch3x3_1', x, 192, (1, 1)), 320, (3, 3), 2, 'VALID')
  large = conv('branch7x7x3_2', conv('branch7x7x3_1', x, 192, (1, 1)), 192, (1, 7))
  large = conv('branch7x7x3_4', conv('branch7x7x3_3', large, 192, (7, 1)), 192, (3, 3), 2, 'VALID')
  return _join(small, large, _max_pool(x, 2, 'VALID'))


def _block_e(conv, x, pool):
  once = conv('branch3x3_1', x, 384, (1, 1))
  once = _join(conv('branch3x3_2a', once, 384, (1, 3)), conv('branch3x3_2b', once, 384, (3, 1)))
  twice = conv('branch3x3dbl_2', conv('branch3x3dbl_1', x, 448, (1, 1)), 384, (3, 3))
  twice = _join(
    conv('branch3x3dbl_3a', twice, 384, (1, 3)), conv('branch3x3dbl_3b', twice, 384, (3, 1))
  )
  pooled = conv('branch_pool', pool(x), 192, (1, 1))
  return _join(conv('branch1x1', x, 320, (1, 1)), once, twice, pooled)


def _join(*branches):
  return jnp.concatenate(branches, axis=-1)


def _convolve(x, kernel, stride, padding):
  # Accelerators would round the factors to TF32 or bfloat16: these features are to be the same
  # everywhere.
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    padding,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    precision=jax.lax.Precision.HIGHEST,
  )


def _max_pool(x, stride, padding):
  return _pool(x, jax.lax.max, -jnp.inf, stride, padding)


def _average_pool(x):
  """The mean of the 3 x 3 pixels around each, of those that lie in the picture."""
  sums, counts = (_pool(y, jax.lax.add, 0.0, 1, 'SAME') for y in (x, jnp.ones_like(x[:1, ..., :1])))
  return sums / counts


def _pool(x, reduce, start, stride, padding):
  return jax.lax.reduce_window(x, start, reduce, (1, 3, 3, 1), (1, stride, stride, 1), padding)


def _take(state, name, shape):
  if name not in state:
    raise ValueError(f'{name} is missing; give the weights of the InceptionV3 of the FID')
  if state[name].shape != shape:
    raise ValueError(
      f'{name} has shape {state[name].shape} instead of {shape}; give the weights of the '
      'InceptionV3 of the FID'
    )
  return state[name].astype(np.float64)
