"""One contract, checked for every network."""

import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaediff.networks import Network, conv, mlp, transformer, unet, with_level_logits, with_offsets

SHAPES = [(8, 8, 1), (28, 28, 1), (9, 11, 3)]
BATCH = 3

# Tests compile much and run little.
jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})

# name -> network for an event shape
NETWORKS = {
  'mlp.encoder': lambda shape, **kw: mlp.encoder((16,), 5, **kw),
  'mlp.decoder': lambda shape, **kw: mlp.decoder((16,), shape, **kw),
  'mlp.denoiser': lambda shape, **kw: mlp.denoiser(shape[-1], (16, 24), **kw),
  'conv.encoder': lambda shape, **kw: conv.encoder((8, 16), 5, **kw),
  'conv.decoder': lambda shape, **kw: conv.decoder((16, 8), shape, **kw),
  'unet.denoiser': lambda shape, **kw: unet.denoiser(shape[-1], (8, 16), **kw),
  'transformer.denoiser': lambda shape, **kw: transformer.denoiser(
    shape[-1], width=16, num_blocks=2, **kw
  ),
}
DENOISERS = [name for name in NETWORKS if name.endswith('denoiser')]
PICTURE_DENOISERS = {'unet': unet.denoiser, 'transformer': transformer.denoiser}


def make_inputs(name, shape, batch=BATCH):
  keys = jax.random.split(jax.random.key(0), 2)
  if name.endswith('decoder'):
    return (jax.random.normal(keys[0], (batch, 6)),)
  x = jax.random.normal(keys[0], (batch, *shape))
  if name.endswith('encoder'):
    return (x,)
  log_snr_t = jax.random.uniform(keys[1], (batch,), minval=-12.0, maxval=12.0)
  return x, log_snr_t, jnp.arange(batch) % 3 - 1


def make_params(network, inputs):
  """Parameters with nothing at zero, as they are after training, and no `init` to compile."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)

  def draw(path, p):
    fan_in = math.prod(p.shape[:-1]) if len(p.shape) > 1 else 10.0
    offset = 1.0 if path[-1].key == 'scale' else 0.0
    return jnp.asarray(offset + rng.standard_normal(p.shape) / math.sqrt(fan_in), jnp.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize(('name', 'shape'), list(itertools.product(NETWORKS, SHAPES)))
def test_shapes_and_dtypes(name, shape):
  inputs = make_inputs(name, shape)
  for dtype in (jnp.float32, jnp.bfloat16):
    network = NETWORKS[name](shape, dtype=dtype)
    params = jax.eval_shape(network.init, jax.random.key(1), *inputs)
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype('float32')}
    output = jax.eval_shape(network.apply, params, *inputs)
    expected = (BATCH, 5) if name.endswith('encoder') else (BATCH, *shape)
    assert (output.shape, output.dtype) == (expected, jnp.float32)


@pytest.mark.parametrize('name', NETWORKS)
def test_contract(name):
  """No recompilation, each example on its own, bfloat16 close to float32: one compilation each."""
  shape = (9, 11, 3)
  inputs = make_inputs(name, shape)
  network = NETWORKS[name](shape)
  params = make_params(network, inputs)
  apply = jit(network.apply)
  y = apply(params, *inputs)
  assert np.all(np.isfinite(y))
  assert np.std(y) > 1e-2

  order = jnp.array([2, 0, 1])
  permuted = apply(params, *(a[order] for a in inputs))
  np.testing.assert_allclose(permuted, y[order], rtol=1e-4, atol=1e-5)

  changed = apply(params, *(a.at[0].set(a[1]) for a in inputs))
  np.testing.assert_allclose(changed[1:], y[1:], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(changed[0], y[1], rtol=1e-4, atol=1e-5)
  assert apply._cache_size() == 1

  low = jit(NETWORKS[name](shape, dtype=jnp.bfloat16).apply)(params, *inputs)
  assert np.sqrt(np.mean((low - y) ** 2)) < 0.03 * np.sqrt(np.mean(y**2))


@pytest.mark.parametrize('name', DENOISERS)
def test_denoiser_is_zero_at_initialisation(name):
  shape = (8, 8, 1)
  inputs = make_inputs(name, shape)
  network = NETWORKS[name](shape)
  # This generator compiles several times faster than the default one.
  key = jax.random.key(0, impl='unsafe_rbg')
  y = jit(lambda key, *a: network.apply(network.init(key, *a), *a))(key, *inputs)
  np.testing.assert_array_equal(y, 0)


@pytest.mark.parametrize(('name', 'num_classes'), list(itertools.product(DENOISERS, (0, 3))))
def test_denoiser_takes_one_noise_level_for_all(name, num_classes):
  shape = (9, 11, 3)
  x, _, labels = make_inputs(name, shape)
  network = NETWORKS[name](shape, num_classes=num_classes)
  params = make_params(network, (x, jnp.zeros(BATCH), labels))
  y, y_of_scalar = (
    jit(network.apply)(params, x, log_snr_t, labels)
    for log_snr_t in (jnp.full(BATCH, -3.3), jnp.float32(-3.3))
  )
  np.testing.assert_allclose(y_of_scalar, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', DENOISERS)
def test_denoiser_sees_labels_and_noise_levels(name):
  shape = (8, 8, 1)
  x, log_snr_t, _ = make_inputs(name, shape, batch=4)
  x, log_snr_t = jnp.broadcast_to(x[:1], x.shape), jnp.zeros(4)
  labels = jnp.array([-1, 0, 1, 2])

  blind = NETWORKS[name](shape)
  y = jit(blind.apply)(make_params(blind, (x, log_snr_t, labels)), x, log_snr_t, labels)
  np.testing.assert_allclose(y, np.broadcast_to(y[:1], y.shape), atol=1e-5)

  seeing = NETWORKS[name](shape, num_classes=3)
  apply = jit(seeing.apply)
  params = make_params(seeing, (x, log_snr_t, labels))
  y = apply(params, x, log_snr_t, labels)
  assert np.all(np.isfinite(y))
  for i, j in itertools.combinations(range(4), 2):
    assert np.max(np.abs(y[i] - y[j])) > 1e-3

  levels = jnp.array([-10.0, -9.0, 0.0, 10.0])
  y_levels = apply(params, x, levels, jnp.full(4, -1))
  for i, j in itertools.combinations(range(4), 2):
    assert np.max(np.abs(y_levels[i] - y_levels[j])) > 1e-3

  # "No label" is the last row, which no class shares.
  np.testing.assert_allclose(y[0], apply(params, x, log_snr_t, labels.at[0].set(3))[0], atol=1e-5)
  # A label that does not exist is never masked.
  wrong = apply(params, x, log_snr_t, labels.at[1].set(4))
  assert np.all(np.isnan(wrong[1]))
  assert np.all(np.isfinite(wrong[jnp.array([0, 2, 3])]))


@pytest.mark.parametrize('name', ['encoder', 'decoder'])
def test_mlp_without_hidden_layers_is_affine(name):
  network = mlp.encoder((), 5) if name == 'encoder' else mlp.decoder((), (3, 2))
  x, y = jax.random.normal(jax.random.key(0), (2, 4, 6))
  params = make_params(network, (x,))
  mixed = network.apply(params, 0.3 * x + 0.7 * y)
  expected = 0.3 * network.apply(params, x) + 0.7 * network.apply(params, y)
  np.testing.assert_allclose(mixed, expected, rtol=1e-5, atol=1e-5)
  # The whole map is one matrix and one offset.
  (dense,) = params.values()
  flat = network.apply(params, x).reshape(4, -1)
  np.testing.assert_allclose(flat, x @ dense['kernel'] + dense['bias'], rtol=1e-5, atol=1e-5)


def test_mlp_denoiser_of_vectors():
  network = mlp.denoiser(4, (16,))
  inputs = jnp.ones((BATCH, 2)), jnp.zeros(BATCH), jnp.full(BATCH, -1)
  assert network.apply(network.init(jax.random.key(0), *inputs), *inputs).shape == (BATCH, 4)


@pytest.mark.parametrize('make', PICTURE_DENOISERS.values(), ids=PICTURE_DENOISERS)
def test_remat_changes_neither_parameters_nor_values(make):
  size = {'widths': (8,)} if make is unet.denoiser else {'width': 16, 'num_blocks': 1}
  inputs = make_inputs('denoiser', (8, 8, 1))
  plain, remat = (make(1, **size, remat=remat) for remat in (False, True))
  params = make_params(plain, inputs)

  def loss(network):
    return lambda p: jnp.sum(network.apply(p, *inputs) ** 2)

  def gradient(network):
    return jit(jax.grad(loss(network)))(params)

  assert ['remat' in str(jax.make_jaxpr(loss(n))(params)) for n in (plain, remat)] == [False, True]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
    gradient(plain),
    gradient(remat),
  )


def test_unet_options():
  inputs = make_inputs('denoiser', (8, 8, 1))
  for options in (
    {'attention': False, 'num_blocks': 2},
    {'patch_size': 1, 'widths': (8, 12, 16)},
    {'patch_size': 4, 'widths': (130,), 'fourier_exponents': (7, 8)},
  ):
    network = unet.denoiser(2, **{'widths': (8, 16), **options})
    params = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    assert jax.eval_shape(network.apply, params, *inputs).shape == (BATCH, 8, 8, 2)


def test_unet_adds_zeros_where_a_level_needs_them_and_not_before():
  """28 pixels are 14 patches and 7 on the next level, and 7 are 8 only for the way to 4."""
  network = unet.denoiser(1, (8, 16, 24), attention=False)
  inputs = make_inputs('denoiser', (28, 28, 1))
  params = jax.eval_shape(network.init, jax.random.key(0), *inputs)
  program = str(jax.make_jaxpr(network.apply)(params, *inputs))
  sizes = {(int(h), int(w)) for h, w in re.findall(rf'f32\[{BATCH},(\d+),(\d+),\d+\]', program)}
  assert {h for h, w in sizes if h == w} == {28, 14, 7, 8, 4, 1}


def test_transformer_parameters_do_not_depend_on_the_picture_size():
  network = transformer.denoiser(3, width=16, num_blocks=1)
  small, large = (
    jax.eval_shape(network.init, jax.random.key(0), *make_inputs('denoiser', (n, n, 3)))
    for n in (8, 28)
  )
  assert small == large


def test_offsets_are_added_to_the_input_and_to_the_output():
  network = mlp.encoder((8,), 5)
  x, before, after = (jax.random.normal(jax.random.key(i), (3, n)) for i, n in enumerate((4, 4, 5)))
  wrapped = with_offsets(network, before[0], after[0])
  params = wrapped.init(jax.random.key(3), x)
  expected = network.apply(params, x + before[0]) + after[0]
  np.testing.assert_array_equal(wrapped.apply(params, x), expected)
  np.testing.assert_array_equal(with_offsets(network).apply(params, x), network.apply(params, x))


def test_level_logits_are_the_log_frequencies_at_first_and_one_map_for_all_channels():
  """2 channels with 3 features each, 5 levels, and one number more that is passed on."""
  log_frequencies = np.log(np.array([0.1, 0.2, 0.3, 0.3, 0.1]))
  features = jax.random.normal(jax.random.key(0), (4, 6, 7))
  network = Network(lambda key, *inputs: {}, lambda params, x: x)
  wrapped = with_level_logits(network, log_frequencies, num_channels=2, num_features=3)
  params = wrapped.init(jax.random.key(1), features)
  at_first = wrapped.apply(params, jnp.zeros_like(features))
  np.testing.assert_allclose(
    at_first[..., :10].reshape(4, 6, 2, 5), np.broadcast_to(log_frequencies, (4, 6, 2, 5)), 1e-6
  )
  params['levels']['bias'] = jnp.arange(5.0)
  output = wrapped.apply(params, features)
  np.testing.assert_array_equal(output[..., 10:], features[..., 6:])
  logits = output[..., :10].reshape(4, 6, 2, 5)
  exact = features[..., :6].reshape(4, 6, 2, 3) @ params['levels']['kernel'] + np.arange(5)
  np.testing.assert_allclose(logits, exact + log_frequencies, rtol=1e-5, atol=1e-5)


def test_position_features_are_distinct():
  features = transformer.position_features(5, 7, 16)
  assert features.shape == (5, 7, 16)
  assert len(np.unique(features.reshape(35, 16).round(4), axis=0)) == 35


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: mlp.encoder((0,), 5), r'widths is \(0,\)'),
    (lambda: mlp.encoder((8,), 5, activation='sin'), 'tanh, relu, gelu, silu'),
    (lambda: mlp.decoder((8,), ()), 'output_shape is empty'),
    (lambda: mlp.denoiser(1, ()), 'widths is empty'),
    (lambda: mlp.encoder((8,), 5, dtype=jnp.float16), 'float32 or jnp.bfloat16'),
    (lambda: conv.encoder((), 5), 'widths is empty'),
    (lambda: conv.decoder((8,), (8, 8)), r'\(H, W, C\)'),
    (lambda: unet.denoiser(0), 'num_output_channels is 0'),
    (lambda: unet.denoiser(1, num_classes=-1), 'num_classes is -1'),
    (lambda: transformer.denoiser(1, width=30, num_heads=4), 'use 32'),
  ],
)
def test_constructors_refuse(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def with_input(index, value):
  inputs = [jnp.ones((2, 8, 8, 1)), jnp.zeros(2), jnp.zeros(2, int)]
  inputs[index] = value
  return inputs


@pytest.mark.parametrize(
  ('network', 'inputs', 'message'),
  [
    (unet.denoiser(1), with_input(0, jnp.ones((2, 64))), r'pictures are \[B, H, W, C\]'),
    (unet.denoiser(1), with_input(1, jnp.zeros(1)), 'log_snr_t has shape'),
    (transformer.denoiser(1), with_input(2, jnp.zeros((2, 1), int)), 'label has shape'),
    (mlp.denoiser(1, (8,)), with_input(2, jnp.zeros(2)), 'label has dtype float32'),
    (conv.encoder((8,), 5), [jnp.ones((2, 8))], 'pictures are'),
    (conv.decoder((8,), (8, 8, 1)), [jnp.ones((2, 8, 1))], 'codes are'),
  ],
)
def test_networks_refuse_inputs(network, inputs, message):
  with pytest.raises(ValueError, match=message):
    network.init(jax.random.key(0), *inputs)
  with pytest.raises(ValueError, match=message):
    network.apply({}, *inputs)
