"""The variational autoencoder (Kingma & Welling 2014; lecture section 3).

    z ~ q(z | x),   p(z),   p(x | z)

Its three ingredients (lecture section 3): the decoder's input is random, the loss has a term on the
distribution of the codes, and z is drawn so that gradients pass through.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from vaediff import annealed, bounds, random
from vaediff.latents import Latent
from vaediff.likelihoods import Likelihood
from vaediff.methods import coding
from vaediff.methods.base import Batch, Method, Variables
from vaediff.networks import Network

OBJECTIVES = ('elbo', 'iwae')
BOUNDS = ('elbo', 'importance_weighted', 'annealed')
# Importance draws decoded at once: with more of them a processor's cache does not hold the logits
# of a batch, with fewer the products are small (`benchmarks/importance_sampling.py`).
CHUNK = 10


def vae(
  encoder: Network,
  decoder: Network,
  likelihood: Likelihood,
  latent: Latent,
  latent_dim: int,
  num_levels: int | None,
  objective: str = 'elbo',
  num_draws: int = 1,
  kl_weight: Callable | None = None,
  free_bits: float = 0.0,
  sample_pixels: bool = False,
  bound: str = 'elbo',
  num_bound_draws: int = 1,
  num_temperatures: int = 1000,
  **sampling,
) -> Method:
  """A variational autoencoder.

  encoder, decoder, likelihood, latent, num_levels, sample_pixels: see `coding.make_code`.
  objective, num_draws: 'elbo', the negative ELBO with num_draws draws of z for each example; or
    'iwae', the importance-weighted bound with that many (Burda et al. 2016).
  kl_weight(step): the weight of the KL in the loss (lecture section 3.3); None: 1. free_bits: nats
    of KL for each group of the code that cost nothing (see `bounds.free_bits`).
  bound: what `log_likelihood_bound` is, whatever the loss. 'elbo': the plain ELBO, with one draw.
    'importance_weighted': with num_bound_draws draws, streamed (Burda et al. 2016). 'annealed':
    annealed importance sampling with num_bound_draws chains of num_temperatures steps (see
    `annealed.log_likelihood`). On average each is at most log p(x).
  sampling: which codes are decoded to samples, and their refinement (see `coding.make`).

  The loss has the terms 'reconstruction' and 'kl' beside it, unweighted, and for 'elbo' it is
  reconstruction + kl_weight(step) * kl, the KL after free bits.

  Raises ValueError for an unknown objective or bound, no draws, and 'iwae' with a KL weight or free
  bits, which its bound has no place for.
  """
  for name, value, allowed in (('objective', objective, OBJECTIVES), ('bound', bound, BOUNDS)):
    if value not in allowed:
      raise ValueError(f'{name} is {value!r}; it is one of {", ".join(allowed)}')
  for name, value in (('num_draws', num_draws), ('num_bound_draws', num_bound_draws)):
    if value < 1:
      raise ValueError(f'{name} is {value}; it is at least 1')
  if objective == 'iwae' and (kl_weight is not None or free_bits):
    raise ValueError("objective 'iwae' has no KL term to weight: leave kl_weight 1 and free_bits 0")
  code = coding.make_code(
    encoder, decoder, likelihood, latent, latent_dim, num_levels, sample_pixels
  )

  def draw(variables: Variables, keys, q, x):
    """num_draws codes z [k, B, D] with log p(x | z) [k, B], decoded as one batch."""
    z = jax.vmap(lambda i: latent.sample(random.fold_in(keys, i), q))(jnp.arange(num_draws))
    repeated = jnp.broadcast_to(x, (num_draws, *x.shape)).reshape(-1, *x.shape[1:])
    log_likelihood = code.log_likelihood(variables, repeated, z.reshape(-1, latent_dim))
    return z, log_likelihood.reshape(num_draws, -1)

  def log_weight(q, z, log_likelihood):
    return log_likelihood + latent.prior_log_prob(z) - latent.log_prob(q, z)

  def loss(variables: Variables, keys, batch: Batch, step):
    q = code.posterior(variables, batch.x)
    z, log_likelihood = draw(variables, keys, q, batch.x)
    terms = {'reconstruction': -jnp.mean(log_likelihood, axis=0), 'kl': latent.kl(q)}
    if objective == 'iwae':
      log_weights = jax.vmap(functools.partial(log_weight, q))(z, log_likelihood)
      return {'loss': -bounds.importance_weighted(log_weights), **terms}
    kl = bounds.free_bits(latent.kl_groups(q), free_bits) if free_bits else terms['kl']
    weight = 1.0 if kl_weight is None else kl_weight(step)
    return {'loss': terms['reconstruction'] + weight * kl, **terms}

  def plain_elbo(variables: Variables, keys, batch: Batch):
    q = code.posterior(variables, batch.x)
    z = latent.sample(keys, q)
    return bounds.elbo(code.log_likelihood(variables, batch.x, z), latent.kl(q))

  def importance_weighted(variables: Variables, keys, batch: Batch):
    q = code.posterior(variables, batch.x)

    def log_weights(keys):
      z = latent.sample(keys, q)
      return log_weight(q, z, code.log_likelihood(variables, batch.x, z))

    return {
      'elbo': bounds.streamed_importance_weighted(
        keys, log_weights, num_bound_draws, min(num_bound_draws, CHUNK)
      )
    }

  def annealed_bound(variables: Variables, keys, batch: Batch):
    log_likelihood = annealed.log_likelihood(
      keys,
      lambda keys: latent.prior_sample(keys, latent_dim),
      latent.prior_log_prob,
      lambda z: code.log_likelihood(variables, batch.x, z),
      num_temperatures,
      num_bound_draws,
    )
    return {'elbo': log_likelihood}

  return coding.make(
    code,
    loss,
    log_likelihood_bound={
      'elbo': plain_elbo,
      'importance_weighted': importance_weighted,
      'annealed': annealed_bound,
    }[bound],
    **sampling,
  )
