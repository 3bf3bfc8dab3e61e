"""Multi-layer perceptrons: encoder, decoder and denoiser for vectors and small pictures."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vaediff.networks import Network, checks, from_module
from vaediff.networks.layers import ConditionEmbedding

ACTIVATIONS = {'tanh': nn.tanh, 'relu': nn.relu, 'gelu': nn.gelu, 'silu': nn.silu}


def encoder(
  widths: Sequence[int],
  num_outputs: int,
  activation: str = 'tanh',
  dtype: Any = jnp.float32,
) -> Network:
  """Hidden layers of `widths`, then a linear map, on the flattened event.

  apply(params, x [B, ...]) -> [B, num_outputs] float32. With widths = () it is one affine map: the
  encoder of a linear VAE, which is probabilistic PCA (Tipping & Bishop 1999; Lucas et al. 2019).
  activation: 'tanh', 'relu', 'gelu' or 'silu'.

  Raises ValueError for a size below 1, an unknown activation or dtype.
  """
  checks.positive(widths=tuple(widths), num_outputs=num_outputs)
  checks.one_of(tuple(ACTIVATIONS), activation=activation)
  checks.compute_dtype(dtype)
  return from_module(_Mlp(tuple(widths), (num_outputs,), activation, dtype))


def decoder(
  widths: Sequence[int],
  output_shape: Sequence[int],
  activation: str = 'tanh',
  dtype: Any = jnp.float32,
) -> Network:
  """Hidden layers of `widths`, then a linear map to one event of `output_shape`.

  apply(params, z [B, d]) -> [B, *output_shape] float32. With widths = () it is one affine map.
  activation: 'tanh', 'relu', 'gelu' or 'silu'.

  Raises ValueError for a size below 1, an unknown activation or dtype, a z that is not [B, d].
  """
  checks.positive(widths=tuple(widths), output_shape=tuple(output_shape))
  checks.not_empty(output_shape=tuple(output_shape))
  checks.one_of(tuple(ACTIVATIONS), activation=activation)
  checks.compute_dtype(dtype)
  module = _Mlp(tuple(widths), tuple(output_shape), activation, dtype)
  return from_module(module, checks.codes)


def denoiser(
  num_output_channels: int,
  widths: Sequence[int],
  num_classes: int = 0,
  activation: str = 'silu',
  dtype: Any = jnp.float32,
) -> Network:
  """A residual MLP on the flattened x_t: one block per width, modulated by log-SNR and label.

  apply(params, x_t [B, ..., C], log_snr_t scalar or [B], label [B] int) ->
  [B, ..., num_output_channels] float32; for vectors [B, D] the last axis is D itself. Label -1 is
  "no label"; num_classes = 0 ignores labels. A block is
  h + linear(act(modulate(norm(linear(act(norm(h))))))) with layer norm (Ba et al. 2016) and scale
  and shift as in Peebles & Xie 2023; its last map, and the output, are zero at initialisation.

  Raises ValueError for no widths, a size below 1, an unknown activation or dtype, inputs of the
  wrong shape.
  """
  checks.not_empty(widths=tuple(widths))
  checks.positive(num_output_channels=num_output_channels, widths=tuple(widths))
  checks.not_negative(num_classes=num_classes)
  checks.one_of(tuple(ACTIVATIONS), activation=activation)
  checks.compute_dtype(dtype)
  module = _Denoiser(num_output_channels, tuple(widths), num_classes, activation, dtype)
  return from_module(module, checks.denoiser_inputs)


class _Mlp(nn.Module):
  widths: tuple[int, ...]
  output_shape: tuple[int, ...]
  activation: str
  dtype: Any

  @nn.compact
  def __call__(self, x):
    h = x.reshape(x.shape[0], -1)
    for width in self.widths:
      h = ACTIVATIONS[self.activation](nn.Dense(width, dtype=self.dtype)(h))
    h = nn.Dense(math.prod(self.output_shape), dtype=self.dtype)(h)
    return h.astype(jnp.float32).reshape(x.shape[0], *self.output_shape)


class _Block(nn.Module):
  width: int
  activation: str
  dtype: Any

  @nn.compact
  def __call__(self, x, embedding):
    act = ACTIVATIONS[self.activation]
    h = act(nn.LayerNorm(dtype=self.dtype)(x))
    h = nn.LayerNorm(dtype=self.dtype)(nn.Dense(self.width, dtype=self.dtype)(h))
    scale, shift = jnp.split(nn.Dense(2 * self.width, dtype=self.dtype)(embedding), 2, axis=-1)
    h = act(h * (1 + scale) + shift)
    h = nn.Dense(self.width, kernel_init=nn.initializers.zeros, dtype=self.dtype)(h)
    if x.shape[-1] != self.width:
      x = nn.Dense(self.width, dtype=self.dtype)(x)
    return x + h


class _Denoiser(nn.Module):
  num_output_channels: int
  widths: tuple[int, ...]
  num_classes: int
  activation: str
  dtype: Any

  @nn.compact
  def __call__(self, x_t, log_snr_t, label):
    embed = ConditionEmbedding(max(self.widths), self.num_classes, dtype=self.dtype)
    embedding = embed(log_snr_t, label)
    h = nn.Dense(self.widths[0], dtype=self.dtype)(x_t.reshape(x_t.shape[0], -1))
    for width in self.widths:
      h = _Block(width, self.activation, self.dtype)(h, embedding)
    h = ACTIVATIONS[self.activation](nn.LayerNorm(dtype=self.dtype)(h))
    output_shape = (*x_t.shape[1:-1], self.num_output_channels)
    zeros = nn.initializers.zeros
    h = nn.Dense(math.prod(output_shape), kernel_init=zeros, dtype=self.dtype)(h)
    return h.astype(jnp.float32).reshape(x_t.shape[0], *output_shape)
