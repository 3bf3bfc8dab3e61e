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
