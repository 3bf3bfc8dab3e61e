"""Transformer denoiser: DiT with adaLN-zero (Peebles & Xie 2023)."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vaediff.networks import Network, checks, from_module
from vaediff.networks.layers import (
  ConditionEmbedding,
  SelfAttention,
  depth_to_space,
  pad_to_multiple,
  space_to_depth,
)


def denoiser(
  num_output_channels: int,
  patch_size: int = 2,
  width: int = 128,
  num_blocks: int = 6,
  num_heads: int = 4,
  num_classes: int = 0,
  dtype: Any = jnp.float32,
  remat: bool = False,
) -> Network:
  """A transformer over patches, every block modulated by log-SNR and label (adaLN-zero).

  apply(params, x_t [B, H, W, C], log_snr_t scalar or [B], label [B] int) ->
  [B, H, W, num_output_channels] float32, zero at initialisation. Label -1 is "no label";
  num_classes = 0 ignores labels. H and W may be any size: zeros are added up to a multiple of
  patch_size, and the output is cropped. Positions are fixed two-dimensional sinusoids, so the
  parameters do not depend on the picture size. remat recomputes blocks in the backward pass: less
  memory, a third more work.

  Raises ValueError for a size below 1, a width that num_heads or 4 does not divide, an unknown
  dtype, inputs of the wrong shape, and patches twice as large as the pictures.
  """
  checks.positive(
    num_output_channels=num_output_channels,
    patch_size=patch_size,
    width=width,
    num_blocks=num_blocks,
    num_heads=num_heads,
  )
  checks.divisible(num_heads, width=width)
  checks.divisible(4, width=width)  # sine and cosine of row and column
  checks.not_negative(num_classes=num_classes)
  checks.compute_dtype(dtype)
  module = _Transformer(
    num_output_channels=num_output_channels,
    patch_size=patch_size,
    width=width,
    num_blocks=num_blocks,
    num_heads=num_heads,
    num_classes=num_classes,
    dtype=dtype,
    remat=remat,
  )
  check = functools.partial(checks.picture_denoiser_inputs, multiple=patch_size)
  return from_module(module, check)


def position_features(height: int, width: int, num_features: int) -> np.ndarray:
  """Sinusoids of row and column, [height, width, num_features] float32; num_features in fours.

  Half for the row, half for the column, each as Vaswani et al. 2017, section 3.5.
  """
  frequencies = 10000.0 ** -np.linspace(0, 1, num_features // 4, endpoint=False)

  def sinusoids(n):
    angles = np.arange(n)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)

  rows, columns = np.broadcast_arrays(sinusoids(height)[:, None], sinusoids(width)[None])
  return np.concatenate([rows, columns], axis=-1).astype(np.float32)


def _modulate(h, scale, shift):
  return h * (1 + scale) + shift


class _Modulation(nn.Module):
  """embedding [B or 1, E] -> `num_parts` arrays [B or 1, 1, width], zero at initialisation."""

  num_parts: int
  width: int
  dtype: Any

  @nn.compact
  def __call__(self, embedding):
    zeros = nn.initializers.zeros
    h = nn.Dense(self.num_parts * self.width, kernel_init=zeros, dtype=self.dtype)(embedding)
    return jnp.split(h[:, None, :], self.num_parts, axis=-1)


class _LayerNorm(nn.Module):
  """Without scale and bias: the modulation that follows has both."""

  dtype: Any

  @nn.compact
  def __call__(self, h):
    return nn.LayerNorm(epsilon=1e-6, use_scale=False, use_bias=False, dtype=self.dtype)(h)


class _Block(nn.Module):
  num_heads: int
  dtype: Any

  @nn.compact
  def __call__(self, h, embedding):
    width = h.shape[-1]
    modulation = _Modulation(6, width, self.dtype)(embedding)
    scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = modulation
    r = _modulate(_LayerNorm(self.dtype)(h), scale_1, shift_1)
    h = h + gate_1 * SelfAttention(self.num_heads, dtype=self.dtype)(r)
    r = _modulate(_LayerNorm(self.dtype)(h), scale_2, shift_2)
    r = nn.gelu(nn.Dense(4 * width, dtype=self.dtype)(r))
    return h + gate_2 * nn.Dense(width, dtype=self.dtype)(r)


class _Transformer(nn.Module):
  num_output_channels: int
  patch_size: int
  width: int
  num_blocks: int
  num_heads: int
  num_classes: int
  dtype: Any
  remat: bool

  @nn.compact
  def __call__(self, x_t, log_snr_t, label):
    embed = ConditionEmbedding(self.width, self.num_classes, dtype=self.dtype)
    embedding = embed(log_snr_t, label)
    patches = space_to_depth(
      pad_to_multiple(x_t.astype(self.dtype), self.patch_size), self.patch_size
    )
    batch, rows, columns, _ = patches.shape
    h = nn.Dense(self.width, dtype=self.dtype)(patches)
    h = h + position_features(rows, columns, self.width).astype(self.dtype)
    h = h.reshape(batch, rows * columns, self.width)
    for i in range(self.num_blocks):
      # Named, so that parameters are the same with and without remat.
      block = nn.remat(_Block) if self.remat else _Block
      h = block(self.num_heads, self.dtype, name=f'block_{i}')(h, embedding)
    scale, shift = _Modulation(2, self.width, self.dtype)(embedding)
    h = _modulate(_LayerNorm(self.dtype)(h), scale, shift)
    num_channels = self.patch_size**2 * self.num_output_channels
    h = nn.Dense(num_channels, kernel_init=nn.initializers.zeros, dtype=self.dtype)(h)
    h = depth_to_space(h.reshape(batch, rows, columns, num_channels), self.patch_size)
    return h[:, : x_t.shape[1], : x_t.shape[2]].astype(jnp.float32)
