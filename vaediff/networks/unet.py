"""U-Net denoiser: the network of Ho et al. 2020, on patches."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vaediff.networks import Network, checks, from_module
from vaediff.networks.layers import (
  ConditionEmbedding,
  Conv,
  GroupNorm,
  ResidualBlock,
  SelfAttention,
  depth_to_space,
  fourier_features,
  largest_divisor,
  pad_to_multiple,
  space_to_depth,
)


def denoiser(
  num_output_channels: int,
  widths: Sequence[int] = (48, 96),
  num_blocks: int = 1,
  patch_size: int = 2,
  attention: bool = True,
  num_classes: int = 0,
  fourier_exponents: Sequence[int] = (),
  dtype: Any = jnp.float32,
  remat: bool = False,
) -> Network:
  """A U-Net (Ronneberger et al. 2015; Ho et al. 2020) with one resolution level per width.

  apply(params, x_t [B, H, W, C], log_snr_t scalar or [B], label [B] int) ->
  [B, H, W, num_output_channels] float32, zero at initialisation. Label -1 is "no label";
  num_classes = 0 ignores labels. H and W may be any size: where patches, or the way down, need a
  multiple, zeros are added below and on the right, and cropped again on the way up.

  num_blocks         residual blocks per level, on the way down and again on the way up
  patch_size         side of the patches that become the pixels of the first level: 2 costs a
                     quarter of 1
  attention          self-attention at the lowest resolution and in the middle
  fourier_exponents  n for the inputs sin(2^n pi x), cos(2^n pi x) (Kingma et al. 2021 take 7, 8)
  remat              recompute blocks in the backward pass: less memory, a third more work; no
                     effect on CPU, where XLA takes the two computations for one again

  Raises ValueError for no widths, a size below 1, an unknown dtype, inputs of the wrong shape, and
  pictures of at most half of patch_size 2^(len(widths) - 1).
  """
  checks.not_empty(widths=tuple(widths))
  checks.positive(
    num_output_channels=num_output_channels,
    widths=tuple(widths),
    num_blocks=num_blocks,
    patch_size=patch_size,
  )
  checks.not_negative(num_classes=num_classes)
  checks.compute_dtype(dtype)
  module = _UNet(
    num_output_channels=num_output_channels,
    widths=tuple(widths),
    num_blocks=num_blocks,
    patch_size=patch_size,
    attention=attention,
    num_classes=num_classes,
    fourier_exponents=tuple(fourier_exponents),
    dtype=dtype,
    remat=remat,
  )
  multiple = patch_size * 2 ** (len(widths) - 1)
  return from_module(module, functools.partial(checks.picture_denoiser_inputs, multiple=multiple))


class _Block(nn.Module):
  """A residual block, then self-attention if asked for, with heads of about 64 channels."""

  width: int
  attention: bool
  dtype: Any

  @nn.compact
  def __call__(self, h, embedding):
    h = ResidualBlock(self.width, dtype=self.dtype)(h, embedding)
    if self.attention:
      num_heads = largest_divisor(self.width, at_most=self.width // 64)
      attend = SelfAttention(num_heads, output_init=nn.initializers.zeros, dtype=self.dtype)
      h = h + attend(GroupNorm()(h))
    return h


class _UNet(nn.Module):
  num_output_channels: int
  widths: tuple[int, ...]
  num_blocks: int
  patch_size: int
  attention: bool
  num_classes: int
  fourier_exponents: tuple[int, ...]
  dtype: Any
  remat: bool

  @nn.compact
  def __call__(self, x_t, log_snr_t, label):
    def block(name, width, attention, h):
      # Named, so that parameters are the same with and without remat.
      module = nn.remat(_Block) if self.remat else _Block
      return module(width, attention, self.dtype, name=name)(h, embedding)

    embed = ConditionEmbedding(4 * self.widths[0], self.num_classes, dtype=self.dtype)
    embedding = embed(log_snr_t, label)
    last = len(self.widths) - 1

    h = fourier_features(x_t, self.fourier_exponents).astype(self.dtype)
    h = space_to_depth(pad_to_multiple(h, self.patch_size), self.patch_size)
    h = Conv(self.widths[0], dtype=self.dtype)(h)

    skips = []
    for level, width in enumerate(self.widths):
      if level > 0:
        h = nn.Dense(width, dtype=self.dtype)(space_to_depth(pad_to_multiple(h, 2), 2))
      for i in range(self.num_blocks):
        h = block(f'down_{level}_{i}', width, self.attention and level == last, h)
        skips.append(h)

    h = block('middle', self.widths[-1], self.attention, h)

    for level, width in reversed(list(enumerate(self.widths))):
      for i in range(self.num_blocks):
        h = jnp.concatenate([h, skips.pop()], axis=-1)
        h = block(f'up_{level}_{i}', width, self.attention and level == last, h)
      if level > 0:
        h = depth_to_space(nn.Dense(4 * self.widths[level - 1], dtype=self.dtype)(h), 2)
        h = h[:, : skips[-1].shape[1], : skips[-1].shape[2]]

    h = GroupNorm('silu')(h)
    num_channels = self.patch_size**2 * self.num_output_channels
    h = Conv(num_channels, kernel_init=nn.initializers.zeros, dtype=self.dtype)(h)
    h = depth_to_space(h, self.patch_size)
    return h[:, : x_t.shape[1], : x_t.shape[2]].astype(jnp.float32)
