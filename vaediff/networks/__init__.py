"""Networks: the only package that imports flax.linen.

Outside of it a network is a pair of pure functions, so a method never knows what it is closed over.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


class Network(NamedTuple):
  """A network as two pure functions.

  init(key, *inputs) -> params     parameters in float32
  apply(params, *inputs) -> output in float32, whatever the compute dtype
  check(*inputs)         raises ValueError where the shapes or types of the inputs do not fit, as
                         init and apply do; takes jax.ShapeDtypeStruct for arrays
  """

  init: Callable[..., Any]
  apply: Callable[..., jax.Array]
  check: Callable[..., None] = lambda *inputs: None


def from_module(module: nn.Module, check: Callable[..., None] = lambda *inputs: None) -> Network:
  """The `Network` of a Linen module that has parameters only (no mutable collections).

  check: called with the inputs of `init` and `apply` before the module sees them; raises
  ValueError where they are wrong. It runs while JAX traces, so it may look at shapes and dtypes.
  """

  def init(key, *inputs):
    check(*inputs)
    return module.init(key, *inputs)['params']

  def apply(params, *inputs):
    check(*inputs)
    return module.apply({'params': params}, *inputs)

  return Network(init, apply, check)


def with_shared_channels(network: Network, num_channels: int) -> Network:
  """A network whose output [B, ..., C] gets num_channels more that do not depend on the input.

  They are parameters, zero at initialisation, the same for every example and pixel: a learned scale
  that a likelihood shares between all pixels.
  """

  def init(key, *inputs):
    return {'network': network.init(key, *inputs), 'shared': jnp.zeros(num_channels)}

  def apply(params, *inputs):
    output = network.apply(params['network'], *inputs)
    shared = jnp.broadcast_to(params['shared'], (*output.shape[:-1], num_channels))
    return jnp.concatenate([output, shared], axis=-1)

  return Network(init, apply, network.check)


def with_offsets(network: Network, input_offset=0.0, output_offset=0.0) -> Network:
  """A network of one input that sees it plus an array, and puts out another array more.

  As if the biases of its first and last layers began elsewhere. The offsets are not learned; they
  broadcast to one input [...] and one output [...].
  """
  input_offset, output_offset = (
    jnp.asarray(offset, jnp.float32) for offset in (input_offset, output_offset)
  )

  def apply(params, x):
    return network.apply(params, x + input_offset) + output_offset

  return network._replace(apply=apply)


def with_level_logits(
  network: Network, log_frequencies, num_channels: int, num_features: int
) -> Network:
  """A network whose features become logits over the levels of each channel of the data.

  network: outputs [B, ..., C F + E], F features for each of the C channels, and E numbers more,
  which are passed on. Returns one that outputs [B, ..., C K + E]: an affine map from F features to
  the K levels, the same for all channels, plus the log-frequencies of the levels [K], which are
  not learned. With features that are zero at initialisation the logits are these log-frequencies.
  """
  log_frequencies = jnp.asarray(log_frequencies, jnp.float32)
  num_levels, num_all = len(log_frequencies), num_channels * num_features

  def init(key, *inputs):
    network_key, kernel_key = jax.random.split(key)
    kernel = nn.initializers.lecun_normal()(kernel_key, (num_features, num_levels))
    return {
      'network': network.init(network_key, *inputs),
      'levels': {'kernel': kernel, 'bias': jnp.zeros(num_levels)},
    }

  def apply(params, *inputs):
    output = network.apply(params['network'], *inputs)
    *axes, _ = output.shape
    features = output[..., :num_all].reshape(-1, num_features)
    logits = features @ params['levels']['kernel'] + (params['levels']['bias'] + log_frequencies)
    logits = logits.reshape(*axes, num_channels * num_levels)
    return jnp.concatenate([logits, output[..., num_all:]], axis=-1)

  return Network(init, apply, network.check)
