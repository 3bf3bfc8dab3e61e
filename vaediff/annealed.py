"""Annealed importance sampling: the likelihood of a latent-variable model without an encoder.

Neal 2001, with Hamiltonian Monte Carlo for its transitions, as Wu et al. 2017 evaluate
decoder-based models. A chain starts at a draw of the prior and passes through the densities

    p(z) p(x | z)^beta_k,   0 = beta_0 < beta_1 < ... < beta_K = 1;

its weight w = prod_k p(x | z_{k-1})^(beta_k - beta_{k-1}) is an unbiased estimate of p(x).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaediff import bounds, gaussian, random

TARGET_ACCEPTANCE = 0.65


def log_likelihood(
  keys,
  prior_sample: Callable,
  log_prior: Callable,
  log_likelihood: Callable,
  num_temperatures: int,
  num_chains: int,
  num_leapfrog: int = 10,
  initial_step_size: float = 0.1,
  adaptation_rate: float = 0.1,
  chunk: int = 1,
):
  """log(1/C sum_c w_c) over C = num_chains chains, in nats, [B]: in expectation below log p(x).

  The temperatures are `sigmoidal_temperatures`. Each example has its own step size at each of
  them, found by one more chain, which is not counted: there, the log step size moves by
  adaptation_rate (acceptance - 0.65) at each temperature (the target of Wu et al. 2017). Counted
  chains find their step sizes fixed, for one that adapts as it goes no longer leaves its densities
  invariant, and E[w] = p(x) would not be exact.

  keys: [B]. prior_sample(keys [B]) -> z [B, D]. log_prior(z) -> [B] and log_likelihood(z) -> [B],
    log p(x | z) for the B examples in order: an example's value depends on its own z alone. Both
    are differentiated. A log_prior of -inf, as outside of the unit cube, is a wall: proposals
    there are rejected, and so are those whose energy has diverged to NaN.
  num_temperatures: K. At K = 1 there is no transition: importance sampling from the prior.
  num_leapfrog: steps of a transition, each one gradient.
  chunk: how many chains run at once (`bounds.streamed_importance_weighted`).

  Raises ValueError for num_temperatures, num_chains, num_leapfrog or chunk below 1.
  """
  for name, value in (('num_temperatures', num_temperatures), ('num_leapfrog', num_leapfrog)):
    if value < 1:
      raise ValueError(f'{name} is {value}; it is at least 1')
  beta = sigmoidal_temperatures(num_temperatures)
  moves = jnp.arange(1, num_temperatures)

  def start(keys):
    """A point at beta_0, its log-weight after the first increment, and the keys to move with."""
    start_keys, move_keys = random.split(keys)
    point = _evaluate(log_prior, log_likelihood, prior_sample(start_keys))
    return point, beta[1] * point.log_likelihood, move_keys

  def move(keys, point, k, log_step_size):
    """One transition that leaves the density of beta_k invariant, and how likely it was taken."""
    return _hamiltonian_transition(
      random.fold_in(keys, k),
      point,
      lambda z: _evaluate(log_prior, log_likelihood, z),
      jnp.asarray(beta, point.z.dtype)[k],
      jnp.exp(log_step_size),
      num_leapfrog,
    )

  def log_step_sizes(keys):
    """Adapted along one chain: [K-1, B]."""
    point, log_weight, keys = start(keys)

    def adapt(state, k):
      point, log_step_size = state
      point, acceptance = move(keys, point, k, log_step_size)
      log_step_size += adaptation_rate * (acceptance - TARGET_ACCEPTANCE)
      return (point, log_step_size), log_step_size

    initial = jnp.full_like(log_weight, jnp.log(initial_step_size))
    return jax.lax.scan(adapt, (point, initial), moves)[1]

  def log_weight(keys):
    """Of one chain, with those step sizes. [B]."""
    point, log_w, keys = start(keys)

    def anneal(state, inputs):
      point, log_w = state
      k, increment, log_step_size = inputs
      point, _ = move(keys, point, k, log_step_size)
      return (point, log_w + increment * point.log_likelihood), None

    increments = jnp.asarray(np.diff(beta)[1:], log_w.dtype)
    return jax.lax.scan(anneal, (point, log_w), (moves, increments, step_sizes))[0][1]

  pilot_keys, chain_keys = random.split(keys)
  step_sizes = log_step_sizes(pilot_keys)
  return bounds.streamed_importance_weighted(chain_keys, log_weight, num_chains, chunk)


def sigmoidal_temperatures(num_temperatures: int, steepness: float = 4.0) -> np.ndarray:
  """beta_0 = 0 to beta_K = 1 for K = num_temperatures, dense at both ends. [K+1], float64.

  A sigmoid between -steepness and steepness, shifted and scaled (Wu et al. 2017).
  """
  sigmoid = 1 / (1 + np.exp(-steepness * np.linspace(-1, 1, num_temperatures + 1)))
  return (sigmoid - sigmoid[0]) / (sigmoid[-1] - sigmoid[0])


class _Point(NamedTuple):
  """z [B, D] with both log-densities [B] and their gradients [B, D], good at any temperature."""

  z: jax.Array
  log_prior: jax.Array
  log_likelihood: jax.Array
  prior_slope: jax.Array
  likelihood_slope: jax.Array

  def log_density(self, beta):
    return self.log_prior + beta * self.log_likelihood

  def slope(self, beta):
    return self.prior_slope + beta * self.likelihood_slope


def _evaluate(log_prior: Callable, log_likelihood: Callable, z) -> _Point:
  prior, prior_pullback = jax.vjp(log_prior, z)
  likelihood, likelihood_pullback = jax.vjp(log_likelihood, z)
  (prior_slope,) = prior_pullback(jnp.ones_like(prior))
  (likelihood_slope,) = likelihood_pullback(jnp.ones_like(likelihood))
  return _Point(z, prior, likelihood, prior_slope, likelihood_slope)


def _hamiltonian_transition(keys, point: _Point, evaluate: Callable, beta, step_size, num_leapfrog):
  """One step of Hamiltonian Monte Carlo (Neal 2011, section 5.3.2), with unit masses.

  step_size: [B]. Returns (point, probability of acceptance [B]).
  """
  momentum_keys, accept_keys = random.split(keys)
  momentum = random.normal(momentum_keys, point.z.shape, point.z.dtype)
  h = step_size[:, None]

  def leapfrog(state, _):
    point, momentum = state
    momentum += 0.5 * h * point.slope(beta)
    point = evaluate(point.z + h * momentum)
    return (point, momentum + 0.5 * h * point.slope(beta)), None

  (proposal, last_momentum), _ = jax.lax.scan(leapfrog, (point, momentum), length=num_leapfrog)
  kinetic_loss = 0.5 * gaussian.sum_event(jnp.square(momentum) - jnp.square(last_momentum))
  log_ratio = proposal.log_density(beta) - point.log_density(beta) + kinetic_loss
  # A trajectory that ran off has an energy of inf - inf: it is as improbable as an infinite one.
  log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
  acceptance = jnp.exp(jnp.minimum(log_ratio, 0.0))
  is_accepted = random.uniform(accept_keys, acceptance.shape, acceptance.dtype) < acceptance

  def choose(new, old):
    return jnp.where(jnp.expand_dims(is_accepted, range(1, new.ndim)), new, old)

  return jax.tree.map(choose, proposal, point), acceptance
