"""Log-likelihoods of pictures and their gradients: ours, and the same as their formulas stand.

Of 640 pictures of 28 x 28, five seeds of a batch of 128: Bernoulli of binary ones, the discretised
logistic of those with 256 levels. A turn is NUM_CALLS of the value and of its gradient with respect
to what a decoder puts out.
"""

import math

import jax
import jax.numpy as jnp

from benchmarks import timing
from vaediff import likelihoods

NUM_PICTURES, NUM_LEVELS, NUM_CALLS = 640, 256, 5


def run(num_turns: int) -> dict[str, list[dict]]:
  """Milliseconds of a call, and how many times as long as ours the plain one takes."""
  keys = jax.random.split(jax.random.key(0))
  shape = NUM_PICTURES, 28, 28, 1
  pairs = {
    'Bernoulli': (likelihoods.bernoulli(), _bernoulli, 2),
    'discretised logistic': (
      likelihoods.discretized_logistic(NUM_LEVELS),
      _discretized_logistic,
      NUM_LEVELS,
    ),
  }
  rows = []
  for name, (ours, plain, num_levels) in pairs.items():
    x = jax.random.randint(keys[0], shape, 0, num_levels, jnp.uint8)
    outputs = jax.random.normal(keys[1], (*shape[:-1], ours.num_outputs))
    seconds = timing.by_turns(
      {'ours': _calls(ours.log_prob, outputs, x), 'plain': _calls(plain, outputs, x)}, num_turns
    )
    ratio = timing.ratio(seconds['plain'], seconds['ours'])
    rows.append(
      {
        'likelihood': name,
        **{
          f'{kind}, ms': 1000 * timing.summarize(values).median / NUM_CALLS
          for kind, values in seconds.items()
        },
        'plain / ours': f'{ratio.median:.3g} ({ratio.lower:.3g} to {ratio.upper:.3g})',
      }
    )
  return {f'{NUM_PICTURES} pictures': rows}


def _calls(log_prob, outputs, x):
  both = jax.jit(jax.value_and_grad(lambda outputs: jnp.sum(log_prob(outputs, x))))

  def call():
    for _ in range(NUM_CALLS):
      result = both(outputs)
    return result

  return call


def _bernoulli(logits, x):
  return jnp.sum(jax.nn.log_sigmoid(jnp.where(x == 1, logits, -logits)), axis=(1, 2, 3))


def _discretized_logistic(outputs, x):
  """`likelihoods.discretized_logistic(256).log_prob` by differences of distribution functions."""
  mean, log_scale = jnp.split(outputs, 2, axis=-1)
  floor = math.log(0.2 / (NUM_LEVELS - 1))
  inverse_scale = jnp.exp(-floor - jax.nn.softplus(log_scale - floor))
  distance, half = likelihoods.center(x, NUM_LEVELS) - mean, 1 / (NUM_LEVELS - 1)
  lower, upper = (distance - half) * inverse_scale, (distance + half) * inverse_scale
  below, above = jax.nn.log_sigmoid(upper), jax.nn.log_sigmoid(-lower)
  inner = below + above + jnp.log(-jnp.expm1(lower - upper))
  log_mass = jnp.where(x == 0, below, jnp.where(x == NUM_LEVELS - 1, above, inner))
  return jnp.sum(log_mass, axis=(1, 2, 3))
