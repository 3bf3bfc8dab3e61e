"""3 x 3 convolutions by fewer multiplications: Winograd's minimal filtering, F(2 x 2, 3 x 3).

A tile of 2 x 2 outputs is a linear map of a window of 4 x 4 inputs that takes 36 multiplications
for each pair of channels. Lavin & Gray 2016 (Fast algorithms for convolutional neural networks,
eq. 8, section 4.1) take 16,

  Y = A^T [(G g G^T) * (B^T d B)] A,

where d is the window, g the kernel and * the product element by element, which over channels and
tiles is 16 products of matrices. The elements of the other factors are 0, 1/2 and 1, up to sign:
additions.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

# B^T, G and A^T of Lavin & Gray 2016, section 4.1.
_FROM_INPUT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
_FROM_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_TO_OUTPUT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])

# An array for each element of a tile: [4, 4] for windows, [3, 3] for kernels, [2, 2] for outputs.
_Grid = Sequence[Sequence[jax.Array]]


@jax.custom_vjp
def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolution (cross-correlation) with stride 1 and zero padding that keeps the picture size.

  x: [B, H, W, Cin]. kernel: [3, 3, Cin, Cout]. Returns [B, H, W, Cout]. Gradients in reverse mode
  only, of as few multiplications: in x a convolution with the flipped kernel, in the kernel the
  transposed maps. Its rounding errors in float32 are less than twice those of a plain convolution.
  """
  return _convolve(x, [[kernel[i, j] for j in range(3)] for i in range(3)], contract=0)


def _forward(x, kernel):
  return conv(x, kernel), (x, kernel)


def _backward(saved, y_bar):
  x, kernel = saved
  flipped = [[kernel[2 - i, 2 - j] for j in range(3)] for i in range(3)]
  x_bar = _convolve(y_bar, flipped, contract=1)
  windows = _sandwich(_FROM_INPUT, _tiles(x, 4))
  outputs = _sandwich(_TO_OUTPUT.T, _tiles(y_bar, 2))
  kernel_bar = _sandwich(_FROM_KERNEL.T, _products(windows, outputs, (0, 0)))
  return x_bar, jnp.stack([jnp.stack(row) for row in kernel_bar])


conv.defvjp(_forward, _backward)


def _convolve(x: jax.Array, kernel: _Grid, contract: int) -> jax.Array:
  """The convolution; `contract` is the axis of the kernel's matrices that belongs to x."""
  windows = _sandwich(_FROM_INPUT, _tiles(x, 4))
  products = _products(windows, _sandwich(_FROM_KERNEL, kernel), (1, contract))
  tiles = _sandwich(_TO_OUTPUT, products)
  batch, height, width, _ = x.shape
  shape = batch, -(-height // 2), -(-width // 2), tiles[0][0].shape[-1]
  rows = [jnp.stack([tile.reshape(shape) for tile in row], axis=3) for row in tiles]
  y = jnp.stack(rows, axis=2).reshape(batch, 2 * shape[1], 2 * shape[2], shape[3])
  return y[:, :height, :width]


def _tiles(x: jax.Array, size: int) -> _Grid:
  """Tiles of size x size, two apart: element (i, j) of all of them, [B ceil(H/2) ceil(W/2), C].

  The first begins (size - 2) / 2 before the picture, and beyond it are zeros.
  """
  batch, *sides, channels = x.shape
  before = (size - 2) // 2
  counts = [-(-side // 2) for side in sides]
  after = [2 * count + before - side for count, side in zip(counts, sides, strict=True)]
  padded = jnp.pad(x, ((0, 0), *((before, last) for last in after), (0, 0)))

  def element(i, j):
    stop = (i + 2 * counts[0] - 1, j + 2 * counts[1] - 1)
    part = jax.lax.slice(padded, (0, i, j, 0), (batch, *stop, channels), (1, 2, 2, 1))
    return part.reshape(-1, channels)

  return [[element(i, j) for j in range(size)] for i in range(size)]


def _sandwich(matrix: np.ndarray, grid: _Grid) -> _Grid:
  """matrix grid matrix^T, where the elements of the grid are arrays."""
  rows = [[_combine(row, column) for column in zip(*grid, strict=True)] for row in matrix]
  return [[_combine(row, elements) for row in matrix] for elements in rows]


def _combine(weights: np.ndarray, arrays: Sequence[jax.Array]) -> jax.Array:
  pairs = zip(weights, arrays, strict=True)
  return sum(float(weight) * array for weight, array in pairs if weight)


def _products(left: _Grid, right: _Grid, contract: tuple[int, int]) -> _Grid:
  """Products of matrices, element by element, that sum over an axis of each."""
  dimensions = (((contract[0],), (contract[1],)), ((), ()))
  return [
    [jax.lax.dot_general(a, b, dimensions) for a, b in zip(*rows, strict=True)]
    for rows in zip(left, right, strict=True)
  ]
