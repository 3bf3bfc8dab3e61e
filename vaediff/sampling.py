"""Samplers of diffusion models: from noise to data, in one `lax.scan`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vaediff import gaussian, random


def ancestral(keys, event_shape: tuple[int, ...], reverse_step: Callable, T: int):
  """Draws x_T ~ N(0, I), then x_{t-1} ~ p(x_{t-1} | x_t) for t = T..1 (Ho et al. 2020, alg. 2).

  As there, the last step returns the mean of p(x_0 | x_1), with no noise added.

  keys: [N]. event_shape: of one example. reverse_step(x_t [N, ...], t [N]) -> Normal. Returns
  x_0 [N, ...], unclipped.
  """
  prior_keys, step_keys = random.split(keys)
  num = keys.shape[0]

  def step(x_t, t):
    reverse = reverse_step(x_t, jnp.full(num, t))
    return gaussian.sample(random.fold_in(step_keys, t), reverse), None

  x_1, _ = jax.lax.scan(step, random.normal(prior_keys, (num, *event_shape)), jnp.arange(T, 1, -1))
  return reverse_step(x_1, jnp.ones(num, jnp.int32)).mean
