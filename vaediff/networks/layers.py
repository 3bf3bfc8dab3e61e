"""The parts that the networks share: convolution, resampling, embeddings, attention, blocks.

Everything computes in `dtype` with float32 parameters; norm statistics and softmax are float32.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vaediff.networks import checks, winograd

CONV_IMPLEMENTATIONS = ('lax', 'canonical', 'winograd')
# Which of them `conv` is, within `with default_conv('lax'): ...`, where a call names none; None is
# the fastest. Programs that were compiled outside are compiled anew inside.
default_conv = jax.make_user_context(default_value=None)
# Channels, on both sides, from which on 3 x 3 convolutions on CPU are worth the maps around their
# products (`benchmarks/convolution.py`).
_WINOGRAD_CHANNELS = 48


def conv(x: jax.Array, kernel: jax.Array, implementation: str | None = None) -> jax.Array:
  """Convolution (cross-correlation) with stride 1 and zero padding that keeps the picture size.

  x: [B, H, W, Cin]. kernel: [kh, kw, Cin, Cout], kh and kw odd. Returns [B, H, W, Cout].

  implementation:
    lax        XLA's convolution
    canonical  the same with gradients of its own, for reverse mode only, in float32: on CPU XLA has
               a fast convolution for one order of the axes, and leaves it behind in the gradients
               of others (jax-ml/jax#12868; `benchmarks/convolution.py` measures it)
    winograd   3 x 3 kernels by fewer multiplications (`winograd.conv`), reverse mode only, float32
    None       what `default_conv` says, and if that is None too, the fastest: on CPU 'winograd'
               for 3 x 3 kernels with many channels and 'canonical' for others; 'lax' elsewhere
               and in float64

  Raises ValueError for an even kernel, channels that do not match, an unknown implementation and
  for 'winograd' with a kernel that is not 3 x 3.
  """
  checks.pictures(x)
  if kernel.ndim != 4 or kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
    raise ValueError(f'kernel has shape {kernel.shape}; give [kh, kw, Cin, Cout], kh and kw odd')
  if kernel.shape[2] != x.shape[3]:
    raise ValueError(
      f'kernel {kernel.shape} reads {kernel.shape[2]} channels, the input {x.shape} has '
      f'{x.shape[3]}; make them equal'
    )
  if implementation is None:
    implementation = default_conv.value or _fastest(x, kernel)
  checks.one_of(CONV_IMPLEMENTATIONS, implementation=implementation)
  padding = tuple((size // 2, size // 2) for size in kernel.shape[:2])
  if implementation == 'lax':
    return _convolve(x, kernel, padding)
  # Both are written for float32, the first because XLA's fast convolution on CPU is.
  x_float, kernel_float = x.astype(jnp.float32), kernel.astype(jnp.float32)
  if implementation == 'canonical':
    return _canonical_conv(x_float, kernel_float, padding).astype(x.dtype)
  if kernel.shape[:2] != (3, 3):
    raise ValueError(f"implementation 'winograd' is for 3 x 3 kernels, not {kernel.shape[:2]}")
  return winograd.conv(x_float, kernel_float).astype(x.dtype)


def _fastest(x, kernel):
  if jax.default_backend() != 'cpu' or x.dtype == jnp.float64:
    return 'lax'
  is_wide = min(kernel.shape[2:]) >= _WINOGRAD_CHANNELS
  return 'winograd' if kernel.shape[:2] == (3, 3) and is_wide else 'canonical'


def _convolve(x, kernel, padding):
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _canonical_conv(x, kernel, padding):
  """The convolution whose gradients are such convolutions too, on transposed arrays.

  In x it is that of the cotangent with the flipped kernel, input and output channels exchanged. In
  the kernel it is that of x with the cotangent, where batch and channels change places: the batch
  is summed over as input channels are, and the channels of x stand where the batch was.
  """
  return _in_order(padding)(x, kernel)


def _canonical_conv_forward(x, kernel, padding):
  return _in_order(padding)(x, kernel), (x, kernel)


def _canonical_conv_backward(padding, saved, y_bar):
  x, kernel = saved
  flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
  kernel_bar = _in_order(padding)(x.transpose(3, 1, 2, 0), y_bar.transpose(1, 2, 0, 3))
  return _in_order(padding)(y_bar, flipped), kernel_bar.transpose(1, 2, 0, 3)


_canonical_conv.defvjp(_canonical_conv_forward, _canonical_conv_backward)


@functools.cache
def _in_order(padding):
  """`_convolve` of arrays that lie in memory as their axes say; kernels of its own for each of a
  batch of kernels, where XLA would make groups of channels of them, come one after the other."""

  @jax.custom_batching.custom_vmap
  def convolve(x, kernel):
    # Without the barrier XLA takes the transposition of an array into the convolution.
    return _convolve(*jax.lax.optimization_barrier((x, kernel)), padding)

  @convolve.def_vmap
  def convolve_many(axis_size, is_batched, x, kernel):
    if not is_batched[1]:
      y = convolve(x.reshape(-1, *x.shape[2:]), kernel)
      return y.reshape(*x.shape[:2], *y.shape[1:]), True
    if not is_batched[0]:
      x = jnp.broadcast_to(x, (axis_size, *x.shape))
    return jax.lax.map(lambda pair: convolve(*pair), (x, kernel)), True

  return convolve


class Conv(nn.Module):
  """`conv` with a kernel [kh, kw, Cin, features] and a bias. [B, H, W, Cin] -> [B, H, W, features].

  Raises ValueError as `conv` does.
  """

  features: int
  kernel_size: tuple[int, int] = (3, 3)
  kernel_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()
  implementation: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    kernel_shape = (*self.kernel_size, x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, kernel_shape, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
    y = conv(x.astype(self.dtype), kernel.astype(self.dtype), self.implementation)
    return y + bias.astype(self.dtype)


def space_to_depth(x: jax.Array, size: int) -> jax.Array:
  """[B, H, W, C] -> [B, H/size, W/size, size^2 C]: each size x size patch becomes one pixel.

  The inverse of `depth_to_space`. Raises ValueError unless `size` divides H and W.
  """
  batch, height, width, channels = x.shape
  if height % size or width % size:
    raise ValueError(f'{height}x{width} is not divisible by {size}; pad it (pad_to_multiple)')
  x = x.reshape(batch, height // size, size, width // size, size, channels)
  return x.swapaxes(2, 3).reshape(batch, height // size, width // size, size**2 * channels)


def depth_to_space(x: jax.Array, size: int) -> jax.Array:
  """[B, H, W, size^2 C] -> [B, size H, size W, C]: each pixel becomes one size x size patch.

  The inverse of `space_to_depth`. Raises ValueError unless size^2 divides the channels.
  """
  batch, height, width, channels = x.shape
  if channels % size**2:
    raise ValueError(f'{channels} channels do not make {size}x{size} patches; use a multiple')
  x = x.reshape(batch, height, width, size, size, channels // size**2)
  return x.swapaxes(2, 3).reshape(batch, size * height, size * width, channels // size**2)


def pad_to_multiple(x: jax.Array, multiple: int) -> jax.Array:
  """[B, H, W, C] with zeros below and on the right until `multiple` divides H and W."""
  return jnp.pad(x, ((0, 0), (0, -x.shape[1] % multiple), (0, -x.shape[2] % multiple), (0, 0)))


def fourier_features(x: jax.Array, exponents: Sequence[int]) -> jax.Array:
  """x with sin(2^n pi x), cos(2^n pi x) for each n appended (Kingma et al. 2021, appendix C).

  [..., C] -> [..., (1 + 2 len(exponents)) C], float32. They show a network the least significant
  bits of the data, which decide its likelihood.
  """
  x = x.astype(jnp.float32)
  angles = [2.0**n * jnp.pi * x for n in exponents]
  return jnp.concatenate([x, *map(jnp.sin, angles), *map(jnp.cos, angles)], axis=-1)


# The longest sine is half a turn over [-25, 25], so it alone orders all levels; the shortest turns
# within the log-SNR step between neighbouring levels of a schedule of about 100 steps.
_SHORTEST_WAVELENGTH, _LONGEST_WAVELENGTH = 0.25, 100.0


def log_snr_features(log_snr: jax.Array, num_features: int) -> jax.Array:
  """Sinusoids of the log-SNR (Vaswani et al. 2017, section 3.5, on another scale).

  log_snr: [B], about [-25, 25]. Returns [B, num_features] float32: sines then cosines with
  wavelengths geometric from 0.25 to 100 in log-SNR. Raises ValueError if num_features is odd.
  """
  if num_features % 2:
    raise ValueError(f'num_features is {num_features}; sines and cosines pair up, make it even')
  wavelengths = np.geomspace(_SHORTEST_WAVELENGTH, _LONGEST_WAVELENGTH, num_features // 2)
  angles = log_snr.astype(jnp.float32)[:, None] * jnp.asarray(2 * np.pi / wavelengths, jnp.float32)
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class ConditionEmbedding(nn.Module):
  """What a denoiser is told beside x_t: (log_snr_t, a scalar or [B], label [B]) -> [B or 1, width].

  A two-layer MLP of the log-SNR's sinusoids, plus, if num_classes > 0, a learned row per label;
  label -1 is "no label" and has a row of its own (Ho & Salimans 2022). num_classes = 0 ignores
  the labels. A label past the last class gives NaN. Ends in SiLU: blocks apply one linear map.

  A log-SNR that all examples share, a scalar, gives [1, width] where there are no labels: what is
  made of it is computed once, and broadcast.
  """

  width: int
  num_classes: int
  num_features: int = 64
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, log_snr_t, label):
    h = log_snr_features(jnp.atleast_1d(log_snr_t), self.num_features)
    h = nn.silu(nn.Dense(self.width, dtype=self.dtype)(h))
    h = nn.Dense(self.width, dtype=self.dtype)(h)
    if self.num_classes:
      # Index -1 is the last of the num_classes + 1 rows.
      h = h + nn.Embed(self.num_classes + 1, self.width, dtype=self.dtype)(label)
    return nn.silu(h)


def largest_divisor(n: int, at_most: int) -> int:
  """The largest divisor of n that is not above max(at_most, 1)."""
  return next(d for d in range(max(min(at_most, n), 1), 0, -1) if n % d == 0)


def group_norm(x, gain, shift, num_groups: int, activation: str | None = None):
  """activation(gain * n + shift), n the group-normalised x (Wu & He 2018, eq. 1 and 2, eps 1e-5).

  x: [B, ..., C]. gain, shift: [B, C], of each example its own. num_groups divides C. activation:
  'silu' or None. Statistics, and what is between them and the result, are float32, whatever the
  type of x, which the result has too.

  Its gradient, for reverse mode only, is written out: it keeps x and [B, C] numbers, and reads and
  writes arrays of the size of x less often than the gradients of the parts would.

  Raises ValueError for an unknown activation.
  """
  if activation not in (None, 'silu'):
    raise ValueError(f"activation is {activation!r}; it is 'silu' or None")
  return _group_norm(x, gain, shift, num_groups, activation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _group_norm(x, gain, shift, num_groups, activation):
  return _group_norm_forward(x, gain, shift, num_groups, activation)[0]


def _group_norm_forward(x, gain, shift, num_groups, activation):
  x_32 = x.astype(jnp.float32)
  num = math.prod(x.shape[1:-1])
  mean = _group_mean(_sum_positions(x_32) / num, num_groups)
  squares = _sum_positions(jnp.square(x_32 - _over(mean, x)))
  rate = jax.lax.rsqrt(_group_mean(squares / num, num_groups) + 1e-5)
  slope = gain * rate
  u = x_32 * _over(slope, x) + _over(shift - slope * mean, x)
  y = u * nn.sigmoid(u) if activation else u
  return y.astype(x.dtype), (x, gain, shift, mean, rate)


def _group_norm_backward(num_groups, activation, saved, y_bar):
  """With n = (x - m) r and u = gain n + shift: by the sums over positions of u_bar and u_bar x, in
  each channel, there are those of u_bar and u_bar n, and all gradients."""
  x, gain, shift, mean, rate = saved
  x_32, u_bar = x.astype(jnp.float32), y_bar.astype(jnp.float32)
  slope = gain * rate
  if activation:
    u = x_32 * _over(slope, x) + _over(shift - slope * mean, x)
    s = nn.sigmoid(u)
    # Computed once: without the barrier each of the three uses below would do so.
    u_bar = jax.lax.optimization_barrier(u_bar * (s + u * (s - s * s)))
  shift_bar = _sum_positions(u_bar)
  gain_bar = rate * (_sum_positions(u_bar * x_32) - mean * shift_bar)
  num = math.prod(x.shape[1:-1])
  of_mean = _group_mean(gain * shift_bar / num, num_groups)
  of_rate = _group_mean(gain * gain_bar / num, num_groups)
  # r (gain u_bar - E[gain u_bar] - n E[gain u_bar n])
  x_scale = rate * rate * of_rate
  x_bar = (
    u_bar * _over(slope, x) - x_32 * _over(x_scale, x) + _over(x_scale * mean - rate * of_mean, x)
  )
  return x_bar.astype(x.dtype), gain_bar, shift_bar


_group_norm.defvjp(_group_norm_forward, _group_norm_backward)


def _sum_positions(x):
  """[B, ..., C] -> [B, C]."""
  return jnp.sum(x, axis=tuple(range(1, x.ndim - 1)))


def _group_mean(of_channels, num_groups):
  """[B, C], of which each group of channels has its mean."""
  groups = of_channels.reshape(-1, num_groups, of_channels.shape[-1] // num_groups)
  means = jnp.broadcast_to(jnp.mean(groups, axis=-1, keepdims=True), groups.shape)
  return means.reshape(of_channels.shape)


def _over(of_channels, x):
  """[B, C] -> [B, 1, ..., C], as many axes as x has."""
  return of_channels.reshape(-1, *(1,) * (x.ndim - 2), x.shape[-1])


class GroupNorm(nn.Module):
  """`group_norm` with at most 32 groups, at least 4 channels in each. [B, ..., C] -> same.

  scale, shift: [B, C], of each example its own, or [1, C], one for all: a gain of 1 + scale and a
  shift behind the learned ones (Dhariwal & Nichol 2021, section 3, "adaptive group normalization").
  """

  activation: str | None = None

  @nn.compact
  def __call__(self, x, scale=None, shift=None):
    channels = x.shape[-1]
    gain = self.param('scale', nn.initializers.ones, (channels,), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (channels,), jnp.float32)
    gain, bias = (jnp.broadcast_to(a, (x.shape[0], channels)) for a in (gain, bias))
    if scale is not None:
      gain, bias = gain * (1 + scale), bias * (1 + scale) + shift
    num_groups = largest_divisor(channels, at_most=min(32, channels // 4))
    return group_norm(x, gain, bias, num_groups, self.activation)


class ResidualBlock(nn.Module):
  """x + conv(SiLU(norm(conv(SiLU(norm(x)))))), second convolution zero at initialisation.

  x: [B, H, W, C], embedding: [B, E], [1, E] or None -> [B, H, W, width]. An embedding scales and
  shifts the second norm (Dhariwal & Nichol 2021, section 3, "adaptive group normalization").
  """

  width: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, embedding=None):
    h = Conv(self.width, dtype=self.dtype)(GroupNorm('silu')(x))
    modulation = ()
    if embedding is not None:
      modulation = nn.Dense(2 * self.width, dtype=self.dtype)(embedding).astype(jnp.float32)
      modulation = jnp.split(modulation, 2, axis=-1)
    h = GroupNorm('silu')(h, *modulation)
    h = Conv(self.width, kernel_init=nn.initializers.zeros, dtype=self.dtype)(h)
    if x.shape[-1] != self.width:
      x = nn.Dense(self.width, dtype=self.dtype)(x)
    return x + h


class SelfAttention(nn.Module):
  """Multi-head self-attention over all positions (Vaswani et al. 2017). [B, ..., C] -> same.

  num_heads must divide C.
  """

  num_heads: int
  output_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    batch, channels = x.shape[0], x.shape[-1]
    num_tokens = math.prod(x.shape[1:-1])
    qkv = nn.Dense(3 * channels, dtype=self.dtype)(x)
    qkv = qkv.reshape(batch, num_tokens, 3, self.num_heads, channels // self.num_heads)
    y = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
    return nn.Dense(channels, kernel_init=self.output_init, dtype=self.dtype)(y.reshape(x.shape))
