"""Checks of what users pass to networks: one line that says what arrived and how to mend it."""

import jax.numpy as jnp


def positive(**sizes):
  """Each keyword argument must be an integer >= 1, or a sequence of such."""
  for name, value in sizes.items():
    entries = value if isinstance(value, tuple | list) else (value,)
    if not all(isinstance(n, int) and n >= 1 for n in entries):
      raise ValueError(f'{name} is {value}; sizes are whole numbers, give 1 or more')


def not_negative(**sizes):
  """Each keyword argument must be an integer >= 0."""
  for name, value in sizes.items():
    if not (isinstance(value, int) and value >= 0):
      raise ValueError(f'{name} is {value}; give a whole number, 0 or more')


def not_empty(**sequences):
  """Each keyword argument must have at least one entry."""
  for name, value in sequences.items():
    if not value:
      raise ValueError(f'{name} is empty; give at least one entry')


def one_of(allowed, **choices):
  """Each keyword argument must be among `allowed`."""
  for name, value in choices.items():
    if value not in allowed:
      raise ValueError(f'{name} is {value!r}; choose from {", ".join(map(str, allowed))}')


def compute_dtype(dtype):
  """`dtype` must be float32 or bfloat16."""
  if dtype not in (jnp.float32, jnp.bfloat16):
    raise ValueError(f'dtype is {dtype}; compute in jnp.float32 or jnp.bfloat16')


def divisible(divisor, **sizes):
  """Each keyword argument must be a multiple of `divisor`."""
  for name, value in sizes.items():
    if value % divisor:
      mended = value + -value % divisor
      raise ValueError(f'{name} {value} is not a multiple of {divisor}; use {mended}')


def picture_shape(shape):
  """`shape` must be (H, W, C)."""
  if len(shape) != 3:
    raise ValueError(f'output_shape is {shape}; pictures are (H, W, C), give three sizes')


def pictures(x):
  """`x` must be [B, H, W, C]."""
  if x.ndim != 4:
    raise ValueError(f'input has shape {x.shape}; pictures are [B, H, W, C], reshape it')


def padding(height, width, multiple):
  """Both sides are padded until `multiple` divides them, which must not double the longer one."""
  if multiple >= 2 * max(height, width):
    raise ValueError(
      f'pictures of {height}x{width} are too small to be divided by {multiple}; give fewer widths '
      'or smaller patches'
    )


def padded_pictures(x, multiple):
  """`x` must be [B, H, W, C], and `padding` to the multiple within its bounds."""
  pictures(x)
  padding(*x.shape[1:3], multiple)


def codes(z):
  """`z` must be [B, d]."""
  if z.ndim != 2:
    raise ValueError(f'latent code has shape {z.shape}; codes are [B, d], reshape it')


def denoiser_inputs(x_t, log_snr_t, label):
  """x_t must be [B, ...], log_snr_t a scalar or [B], label [B] of integers."""
  if x_t.ndim < 2:
    raise ValueError(f'x_t has shape {x_t.shape}; it is [B, ...], give at least one event axis')
  shape = jnp.shape(log_snr_t)
  if shape not in ((), x_t.shape[:1]):
    raise ValueError(
      f'log_snr_t has shape {shape}; it is a scalar, or one per example, {x_t.shape[:1]}'
    )
  if label.shape != x_t.shape[:1]:
    raise ValueError(
      f'label has shape {label.shape}; it is one per example, broadcast it to {x_t.shape[:1]}'
    )
  if not jnp.issubdtype(label.dtype, jnp.integer):
    raise ValueError(f'label has dtype {label.dtype}; labels are integers, -1 for none: cast them')


def picture_denoiser_inputs(x_t, log_snr_t, label, multiple):
  """As `denoiser_inputs`, with x_t [B, H, W, C] that is divided by `multiple`."""
  padded_pictures(x_t, multiple)
  denoiser_inputs(x_t, log_snr_t, label)
