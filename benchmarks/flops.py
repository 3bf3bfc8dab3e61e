"""Floating-point operations, counted: those of the matrix products and convolutions alone.

What else a program does (activations, norms, random numbers) is not counted, neither for JAX nor
for PyTorch, so that a rate by these counts is at most the rate of a matrix product; but for
convolutions, which count as what their definition takes, also where they are computed with fewer.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.extend import core

from experiments.tools import TRAIN, Tools
from vaediff import random
from vaediff.methods.base import Batch, Variables
from vaediff.networks import layers


def of_jax(f: Callable, *args) -> float:
  """The operations of f(*args), arrays or jax.ShapeDtypeStruct; of a condition the dearer branch.

  Raises ValueError where there are products in a loop that runs until a condition holds.
  """
  with layers.default_conv('lax'):
    return _count(jax.make_jaxpr(f)(*args).jaxpr)


def of_training(tools: Tools) -> float:
  """The operations of the loss of one batch and its gradient, on one device."""
  batch_size = tools.config['training']['batch_size']
  shape = tools.experiment.dataset.train.x.shape[1:]
  shapes = (batch_size, *shape), (batch_size,), (batch_size,)
  batch = Batch(*map(jax.ShapeDtypeStruct, shapes, (jnp.uint8, jnp.int32, jnp.int32)))
  variables = tools.state_shapes().variables

  def loss(params, carry, batch):
    keys = random.example_keys(tools.key(TRAIN), 0, batch.index)
    return tools.method.loss(Variables(params, carry), keys, batch, 0)['loss'].sum()

  return of_jax(jax.grad(loss), variables.params, variables.carry, batch)


def of_torch(f: Callable[[], object]) -> float:
  """The operations of a call of f, backward passes included."""
  from torch.nn.attention import SDPBackend, sdpa_kernel
  from torch.utils.flop_counter import FlopCounterMode

  # What is one kernel for attention on CPU is not counted; as products it is.
  with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
    f()
  return float(counter.get_total_flops())


def _count(jaxpr: core.Jaxpr) -> float:
  return float(sum(map(_count_equation, jaxpr.eqns)))


def _count_equation(equation) -> float:
  name, params = equation.primitive.name, equation.params
  if name == 'dot_general':
    (contracted, _), _ = params['dimension_numbers']
    shape = equation.invars[0].aval.shape
    per_output = math.prod(shape[i] for i in contracted)
    return 2.0 * per_output * math.prod(equation.outvars[0].aval.shape)
  if name == 'conv_general_dilated':
    kernel = equation.invars[1].aval.shape
    num_outputs = kernel[params['dimension_numbers'].rhs_spec[0]]
    per_output = math.prod(kernel) / num_outputs
    return 2.0 * per_output * math.prod(equation.outvars[0].aval.shape)
  inner = [_count(jaxpr) for value in params.values() for jaxpr in _jaxprs(value)]
  if name == 'scan':
    return params['length'] * sum(inner)
  if name == 'cond':
    return max(inner)
  if name == 'while' and any(inner):
    raise ValueError('how often a while loop runs is not known: its products cannot be counted')
  return sum(inner)


def _jaxprs(value) -> list[core.Jaxpr]:
  """The programs in a parameter of an equation."""
  if isinstance(value, core.ClosedJaxpr):
    return [value.jaxpr]
  if isinstance(value, core.Jaxpr):
    return [value]
  if isinstance(value, tuple | list):
    return [jaxpr for item in value for jaxpr in _jaxprs(item)]
  return []
