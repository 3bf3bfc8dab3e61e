import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaediff.networks import layers


@pytest.mark.parametrize(
  ('implementation', 'kernel_size', 'size'),
  [
    ('canonical', (1, 1), (8, 8)),
    ('canonical', (3, 3), (9, 11)),
    ('canonical', (5, 3), (9, 11)),
    ('canonical', (3, 3), (1, 2)),
    ('winograd', (3, 3), (8, 6)),
    ('winograd', (3, 3), (9, 11)),
    ('winograd', (3, 3), (1, 2)),
  ],
)
def test_conv_implementations_agree_in_values_and_gradients(implementation, kernel_size, size):
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (2, *size, 3))
  kernel = jax.random.normal(keys[1], (*kernel_size, 3, 5))
  cotangent = jax.random.normal(keys[2], (2, *size, 5))

  @functools.partial(jax.jit, static_argnums=0)
  def run(implementation):
    y, pull_back = jax.vjp(lambda x, k: layers.conv(x, k, implementation), x, kernel)
    return y, *pull_back(cotangent)

  for ours, reference in zip(run(implementation), run('lax')):
    np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-4)


def test_rounding_errors_of_winograd_are_less_than_twice_those_of_a_plain_convolution():
  """Those of values and gradients, against float64."""
  rng = np.random.default_rng(0)
  x, kernel = rng.normal(size=(2, 8, 8, 64)), rng.normal(size=(3, 3, 64, 64))
  cotangent = rng.normal(size=x.shape)

  def run(implementation, dtype):
    conv = functools.partial(layers.conv, implementation=implementation)
    y, pull_back = jax.vjp(conv, jnp.asarray(x, dtype), jnp.asarray(kernel, dtype))
    return [np.asarray(a, np.float64) for a in (y, *pull_back(jnp.asarray(cotangent, dtype)))]

  with jax.enable_x64(True):
    exact = run('lax', jnp.float64)
  for true, plain, ours in zip(exact, run('lax', jnp.float32), run('winograd', jnp.float32)):
    error, plain_error = (np.sqrt(np.mean((a - true) ** 2)) for a in (ours, plain))
    assert 0 < error < 2 * plain_error


@pytest.mark.parametrize(
  ('channels', 'kernel_size', 'expected'),
  [((2, 2), 3, 'canonical'), ((64, 64), 3, 'winograd'), ((64, 64), 1, 'canonical')],
)
def test_conv_is_the_fastest_of_the_backend_where_no_other_is_named(
  channels, kernel_size, expected
):
  arguments = jnp.ones((1, 4, 4, channels[0])), jnp.ones((kernel_size, kernel_size, *channels))
  conv = jax.jit(layers.conv)

  def program(**options):
    return str(jax.make_jaxpr(functools.partial(conv, **options))(*arguments))

  expected = expected if jax.default_backend() == 'cpu' else 'lax'
  default = program()
  assert 'conv_general_dilated' in default or expected == 'winograd'
  for name in layers.CONV_IMPLEMENTATIONS[: 3 if kernel_size == 3 else 2]:
    with layers.default_conv(name):
      other = program()
    assert (default == other) == (name == expected)


def test_conv_of_float64_has_its_digits():
  with jax.enable_x64(True):
    x = jnp.full((1, 3, 3, 1), 1 + 1e-12)
    y = layers.conv(x, jnp.ones((1, 1, 1, 1)))
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize('implementation', ['canonical', 'winograd'])
@pytest.mark.parametrize('axes', [(0, None), (None, 0), (0, 0)])
def test_conv_of_many_is_that_of_each(axes, implementation):
  """Of many pictures, as of many networks: values and gradients."""
  keys = jax.random.split(jax.random.key(0), 2)
  x = jax.random.normal(keys[0], (3, 2, 5, 4, 2)[axes[0] is None :])
  kernel = jax.random.normal(keys[1], (3, 3, 3, 2, 3)[axes[1] is None :])

  def run(x, kernel):
    y, pull_back = jax.vjp(lambda x, k: layers.conv(x, k, implementation), x, kernel)
    return y, *pull_back(jnp.sin(y))

  many = jax.jit(jax.vmap(run, axes))(x, kernel)
  for i in range(3):
    one = run(*(a if axis is None else a[i] for a, axis in zip((x, kernel), axes)))
    for ours, reference in zip(many, one):
      np.testing.assert_allclose(ours[i], reference, rtol=1e-5, atol=1e-5)


def test_conv_module_has_float32_parameters_and_computes_in_dtype():
  x = jnp.ones((1, 4, 4, 2))
  module = layers.Conv(6, dtype=jnp.bfloat16)
  params = module.init(jax.random.key(0), x)
  assert jax.tree.map(lambda p: (p.shape, p.dtype), params['params']) == {
    'kernel': ((3, 3, 2, 6), jnp.float32),
    'bias': ((6,), jnp.float32),
  }
  assert module.apply(params, x).dtype == jnp.bfloat16


@pytest.mark.parametrize(
  ('x_shape', 'kernel_shape', 'implementation', 'message'),
  [
    ((4, 4, 2), (3, 3, 2, 2), None, 'pictures are'),
    ((1, 4, 4, 2), (2, 2, 2, 2), None, 'odd'),
    ((1, 4, 4, 2), (3, 3, 4, 2), None, 'channels'),
    ((1, 4, 4, 2), (3, 3, 2, 2), 'fft', 'lax, canonical, winograd'),
    ((1, 4, 4, 2), (5, 3, 2, 2), 'winograd', 'for 3 x 3 kernels'),
  ],
)
def test_conv_refuses(x_shape, kernel_shape, implementation, message):
  with pytest.raises(ValueError, match=message):
    layers.conv(jnp.ones(x_shape), jnp.ones(kernel_shape), implementation)


@pytest.mark.parametrize('size', [1, 2, 3])
def test_space_to_depth_and_depth_to_space_are_inverses(size):
  x = jax.random.normal(jax.random.key(0), (2, 6, 12, 36))
  deep = layers.space_to_depth(x, size)
  assert deep.shape == (2, 6 // size, 12 // size, 36 * size**2)
  np.testing.assert_array_equal(layers.depth_to_space(deep, size), x)
  flat = layers.depth_to_space(x, size)
  np.testing.assert_array_equal(layers.space_to_depth(flat, size), x)


def test_space_to_depth_gathers_one_patch_per_pixel():
  x = jnp.arange(16).reshape(1, 4, 4, 1)
  np.testing.assert_array_equal(layers.space_to_depth(x, 2)[0, 0, 1], [2, 3, 6, 7])


def test_resampling_refuses_sizes_that_do_not_divide():
  with pytest.raises(ValueError, match='not divisible by 2'):
    layers.space_to_depth(jnp.ones((1, 9, 8, 1)), 2)
  with pytest.raises(ValueError, match='3 channels'):
    layers.depth_to_space(jnp.ones((1, 9, 8, 3)), 2)


def test_fourier_features_are_sines_and_cosines_of_the_input():
  x = jnp.array([[0.25, -0.5]])
  expected = [0.25, -0.5, *np.sin(np.pi * np.array([0.5, -1.0])), *np.cos([np.pi / 2, -np.pi])]
  np.testing.assert_allclose(layers.fourier_features(x, (1,))[0], expected, atol=1e-6)
  np.testing.assert_array_equal(layers.fourier_features(x, ()), x)


def test_log_snr_features_tell_all_levels_apart():
  """Nearest features belong to nearest levels over the whole range: no two levels coincide."""
  log_snr = jnp.linspace(-25, 25, 501)
  features = np.asarray(layers.log_snr_features(log_snr, 64), np.float64)
  assert features.shape == (501, 64)
  distances = np.linalg.norm(features[:, None] - features[None], axis=-1) + 1e9 * np.eye(501)
  neighbours = distances.argmin(axis=1)
  assert np.all(np.abs(neighbours - np.arange(501)) == 1)
  assert distances.min() > 0.5


@pytest.mark.parametrize(
  ('n', 'at_most', 'expected'), [(48, 12, 12), (7, 6, 1), (6, 0, 1), (4, 9, 4)]
)
def test_largest_divisor(n, at_most, expected):
  assert layers.largest_divisor(n, at_most) == expected


def plain_group_norm(x, gain, shift, activation):
  """By its definition, in groups of four channels."""
  groups = x.reshape(len(x), -1, x.shape[-1] // 4, 4)
  mean, var = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
  normalized = ((groups - mean) / jnp.sqrt(var + 1e-5)).reshape(x.shape)
  y = gain[:, None, None] * normalized + shift[:, None, None]
  return y * jax.nn.sigmoid(y) if activation else y


@pytest.mark.parametrize('activation', [None, 'silu'])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_group_norm_matches_its_definition(dtype, activation):
  """Statistics in float32: an offset of 100 would leave bfloat16 statistics without digits."""
  x_key, *keys = jax.random.split(jax.random.key(0), 3)
  x = (jax.random.normal(x_key, (2, 5, 4, 12)) + 100).astype(dtype)
  gain, shift = (jax.random.normal(key, (2, 12)) for key in keys)
  y = jax.jit(layers.group_norm, static_argnums=(3, 4))(x, gain, shift, 3, activation)
  assert y.dtype == dtype
  with jax.enable_x64(True):
    exact = plain_group_norm(*(jnp.asarray(a, jnp.float64) for a in (x, gain, shift)), activation)
  tolerance = {jnp.float32: 1e-4, jnp.bfloat16: 0.05}[dtype]
  np.testing.assert_allclose(np.asarray(y, np.float64), exact, atol=tolerance)


@pytest.mark.parametrize('activation', [None, 'silu'])
def test_the_gradient_of_group_norm_is_that_of_its_definition(activation):
  """Against float64; and where x is constant it is finite."""
  x_key, weight_key, *keys = jax.random.split(jax.random.key(0), 4)
  x = jax.random.normal(x_key, (2, 5, 4, 12)) + 0.5
  weights = jax.random.normal(weight_key, x.shape)
  gain, shift = (jax.random.normal(key, (2, 12)) for key in keys)

  def gradient(f, *args):
    return jax.jit(jax.grad(lambda *args: jnp.sum(jnp.square(f(*args)) * weights), (0, 1, 2)))(
      *args
    )

  ours = gradient(lambda *args: layers.group_norm(*args, 3, activation), x, gain, shift)
  with jax.enable_x64(True):
    exact = gradient(
      lambda *args: plain_group_norm(*args, activation),
      *(jnp.asarray(a, jnp.float64) for a in (x, gain, shift)),
    )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), ours, exact)
  of_constant = gradient(
    lambda *args: layers.group_norm(*args, 3, activation), jnp.ones_like(x), gain, shift
  )
  assert all(jnp.isfinite(leaf).all() for leaf in of_constant)


def test_an_unknown_activation_is_refused():
  with pytest.raises(ValueError, match="'relu'; it is 'silu' or None"):
    layers.group_norm(jnp.ones((2, 5, 4, 12)), *jnp.ones((2, 2, 12)), 3, 'relu')


def test_a_modulated_group_norm_scales_and_shifts_behind_its_own():
  """The module's parameters and those of each example, one after the other."""
  x = jax.random.normal(jax.random.key(0), (2, 5, 4, 12))
  scale, shift = jax.random.normal(jax.random.key(1), (2, 2, 12))
  params = {'scale': jnp.linspace(0.5, 2, 12), 'bias': jnp.linspace(-1, 1, 12)}
  y = layers.GroupNorm().apply({'params': params}, x)
  modulated = layers.GroupNorm('silu').apply({'params': params}, x, scale, shift)
  expected = jax.nn.silu(y * (1 + scale[:, None, None]) + shift[:, None, None])
  np.testing.assert_allclose(modulated, expected, atol=1e-5)


def test_self_attention_is_the_textbook_formula():
  batch, tokens, heads, depth = 2, 6, 2, 4
  x = jax.random.normal(jax.random.key(0), (batch, 2, 3, heads * depth))
  module = layers.SelfAttention(heads)
  y_module, params = jax.jit(module.init_with_output)(jax.random.key(1), x)
  first, last = params['params']['Dense_0'], params['params']['Dense_1']
  qkv = x.reshape(batch, tokens, -1) @ first['kernel'] + first['bias']
  q, k, v = jnp.moveaxis(qkv.reshape(batch, tokens, 3, heads, depth), 2, 0)
  weights = jax.nn.softmax(jnp.einsum('bqhd,bkhd->bhqk', q, k) / math.sqrt(depth), axis=-1)
  y = jnp.einsum('bhqk,bkhd->bqhd', weights, v).reshape(batch, tokens, -1)
  y = (y @ last['kernel'] + last['bias']).reshape(x.shape)
  np.testing.assert_allclose(y_module, y, rtol=1e-4, atol=1e-5)
