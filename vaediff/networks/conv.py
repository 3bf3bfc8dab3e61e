"""Convolutional encoder and decoder for pictures, as variational autoencoders use them."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vaediff.networks import Network, checks, from_module
from vaediff.networks.layers import (
  Conv,
  GroupNorm,
  ResidualBlock,
  depth_to_space,
  pad_to_multiple,
  space_to_depth,
)


def encoder(
  widths: Sequence[int],
  num_outputs: int,
  num_blocks: int = 1,
  dtype: Any = jnp.float32,
) -> Network:
  """Halves the picture once per width, then maps what is left to a vector.

  apply(params, x [B, H, W, C]) -> [B, num_outputs] float32. Each level is space-to-depth, a linear
  map to its width and `num_blocks` residual blocks (He et al. 2016, pre-activation). H and W may be
  any size: zeros are added up to a multiple of 2^len(widths).

  Raises ValueError for no widths, a size below 1, an unknown dtype, an x that is not [B, H, W, C]
  or more widths than halvings make a pixel of it.
  """
  checks.not_empty(widths=tuple(widths))
  checks.positive(widths=tuple(widths), num_outputs=num_outputs, num_blocks=num_blocks)
  checks.compute_dtype(dtype)
  check = functools.partial(checks.padded_pictures, multiple=2 ** len(widths))
  return from_module(_Encoder(tuple(widths), num_outputs, num_blocks, dtype), check)


def decoder(
  widths: Sequence[int],
  output_shape: Sequence[int],
  num_blocks: int = 1,
  dtype: Any = jnp.float32,
) -> Network:
  """Maps a vector to a small picture and doubles it once per width: `encoder` run backwards.

  apply(params, z [B, d]) -> [B, *output_shape] float32; output_shape = (H, W, C). The widths stand
  in the order of use, so the decoder of encoder((32, 64)) has (64, 32). Up-sampling is a linear map
  followed by depth-to-space (Shi et al. 2016); pictures of other sizes than a multiple of
  2^len(widths) are cropped from one.

  Raises ValueError for no widths, more than doublings make the picture of a pixel, a size below 1,
  an output_shape that is not (H, W, C), an unknown dtype, a z that is not [B, d].
  """
  checks.not_empty(widths=tuple(widths))
  checks.picture_shape(tuple(output_shape))
  checks.positive(widths=tuple(widths), output_shape=tuple(output_shape), num_blocks=num_blocks)
  checks.padding(*output_shape[:2], 2 ** len(widths))
  checks.compute_dtype(dtype)
  return from_module(_Decoder(tuple(widths), tuple(output_shape), num_blocks, dtype), checks.codes)


class _Encoder(nn.Module):
  widths: tuple[int, ...]
  num_outputs: int
  num_blocks: int
  dtype: Any

  @nn.compact
  def __call__(self, x):
    h = pad_to_multiple(x.astype(self.dtype), 2 ** len(self.widths))
    for width in self.widths:
      h = nn.Dense(width, dtype=self.dtype)(space_to_depth(h, 2))
      for _ in range(self.num_blocks):
        h = ResidualBlock(width, dtype=self.dtype)(h)
    h = GroupNorm('silu')(h)
    h = nn.Dense(self.num_outputs, dtype=self.dtype)(h.reshape(x.shape[0], -1))
    return h.astype(jnp.float32)


class _Decoder(nn.Module):
  widths: tuple[int, ...]
  output_shape: tuple[int, int, int]
  num_blocks: int
  dtype: Any

  @nn.compact
  def __call__(self, z):
    height, width, channels = self.output_shape
    factor = 2 ** len(self.widths)
    smallest = (math.ceil(height / factor), math.ceil(width / factor), self.widths[0])
    h = nn.Dense(math.prod(smallest), dtype=self.dtype)(z).reshape(z.shape[0], *smallest)
    for level, level_width in enumerate(self.widths):
      if level > 0:
        h = depth_to_space(nn.Dense(4 * level_width, dtype=self.dtype)(h), 2)
      for _ in range(self.num_blocks):
        h = ResidualBlock(level_width, dtype=self.dtype)(h)
    # The last convolution looks beyond its own 2 x 2 patch, so that patches join without seams.
    h = Conv(4 * channels, dtype=self.dtype)(GroupNorm('silu')(h))
    return depth_to_space(h, 2)[:, :height, :width].astype(jnp.float32)
