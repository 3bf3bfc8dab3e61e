"""An update by Muon: ours through Gram matrices, optax's on the matrices themselves, and by Adam.

Of the parameters of the U-Net of `configs/mnist_diffusion_hour.py`, with gradients drawn from a
Gaussian; every device computes the whole update, as in training. A turn is NUM_UPDATES of them in
one loop.
"""

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from benchmarks import timing
from configs import mnist_diffusion_hour
from vaediff import muon, parallel
from vaediff.networks import unet

NUM_UPDATES = 10
SHARED_BATCHES = (32,)


def run(num_turns: int) -> dict[str, list[dict]]:
  """Milliseconds of an update of each, and how many times as long as ours it takes."""
  config = mnist_diffusion_hour.get_config()
  network = unet.denoiser(
    config.method.num_level_features,
    config.denoiser.widths,
    config.denoiser.num_blocks,
    config.denoiser.patch_size,
    config.denoiser.attention,
    fourier_exponents=config.denoiser.fourier_exponents,
  )
  inputs = jnp.zeros((1, 28, 28, 1)), jnp.zeros(1), jnp.zeros(1, jnp.int32)
  params = jax.jit(network.init)(jax.random.key(0), *inputs)
  optimizers = {
    'ours': _partition(muon.scale_by_muon(0.9, 1e-8)),
    'optax': _partition(contrib.scale_by_muon(beta=0.9, weight_dimension_numbers=_as_matrices)),
    'Adam': optax.scale_by_adam(),
  }
  seconds = timing.by_turns(
    {name: _updates(optimizer, params) for name, optimizer in optimizers.items()}, num_turns
  )
  rows = []
  for name, values in seconds.items():
    ratio = timing.ratio(values, seconds['ours'])
    rows.append(
      {
        'update': name,
        'ms': 1000 * timing.summarize(values).median / NUM_UPDATES,
        'of ours': f'{ratio.median:.3g} ({ratio.lower:.3g} to {ratio.upper:.3g})',
      }
    )
  return {f'{sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters': rows}


def _partition(of_matrices: optax.GradientTransformation) -> optax.GradientTransformation:
  """That for arrays of two axes or more, and Adam for the others."""

  def kinds(params):
    return jax.tree.map(lambda p: 'matrix' if p.ndim > 1 else 'other', params)

  return optax.partition({'matrix': of_matrices, 'other': optax.scale_by_adam()}, kinds)


def _as_matrices(params):
  return jax.tree.map(
    lambda p: contrib.MuonDimensionNumbers(tuple(range(p.ndim - 1)), p.ndim - 1), params
  )


def _updates(optimizer: optax.GradientTransformation, params):
  leaves, structure = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  grads = structure.unflatten(
    [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
  )

  def update(carry, _):
    params, state = carry
    updates, state = optimizer.update(grads, state, params)
    return (optax.apply_updates(params, updates), state), None

  def loop(params):
    return jax.lax.scan(update, (params, optimizer.init(params)), length=NUM_UPDATES)[0]

  devices = jax.devices()
  many, replicated = parallel.pmap(loop, devices), parallel.replicate(params, devices)
  return lambda: many(replicated)
