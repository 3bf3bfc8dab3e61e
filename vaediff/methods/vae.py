"""The variational autoencoder (Kingma & Welling 2014; lecture section 3).

    z ~ q(z | x),   p(z),   p(x | z)

Its three ingredients (lecture section 3): the decoder's input is random, the loss has a term on the
distribution of the codes, and z is drawn so that gradients pass through.
"""

from collections.abc import Callable

import jax.numpy as jnp

from vaediff import bounds, random
from vaediff.latents import Latent
from vaediff.likelihoods import Likelihood, center
from vaediff.methods.base import Batch, Method, Variables
from vaediff.networks import Network

OBJECTIVES = ('elbo', 'iwae')


def vae(
  encoder: Network,
  decoder: Network,
  likelihood: Likelihood,
  latent: Latent,
  latent_dim: int,
  num_levels: int,
  objective: str = 'elbo',
  num_draws: int = 1,
  kl_weight: Callable | None = None,
  free_bits: float = 0.0,
  sample_pixels: bool = False,
) -> Method:
  """A variational autoencoder.

  encoder: x [B, ...] centred on [-1, 1] -> [B, latent.num_outputs(latent_dim)].
  decoder: z [B, latent_dim] -> [B, ..., likelihood.num_outputs * C].
  latent: the family of posteriors with its prior. num_levels: of the data, 0 .. num_levels - 1.
  objective, num_draws: 'elbo', the negative ELBO with num_draws draws of z for each example; or
    'iwae', the importance-weighted bound with that many (Burda et al. 2016).
  kl_weight(step): the weight of the KL in the loss (lecture section 3.3); None: 1. free_bits: nats
    of KL for each group of the code that cost nothing (see `bounds.free_bits`).
  sample_pixels: whether samples are draws from p(x | z), or its mean on the nearest level.

  The loss has the terms 'reconstruction' and 'kl' beside it, unweighted, and for 'elbo' it is
  reconstruction + kl_weight(step) * kl, the KL after free bits. `log_likelihood_bound` is the plain
  ELBO, one draw, whatever the loss.

  Raises ValueError for an unknown objective, no draws, and 'iwae' with a KL weight or free bits,
  which its bound has no place for.
  """
  if objective not in OBJECTIVES:
    raise ValueError(f'objective is {objective!r}; it is one of {", ".join(OBJECTIVES)}')
  if num_draws < 1:
    raise ValueError(f'num_draws is {num_draws}; it is at least 1')
  if objective == 'iwae' and (kl_weight is not None or free_bits):
    raise ValueError("objective 'iwae' has no KL term to weight: leave kl_weight 1 and free_bits 0")

  def posterior(params, x):
    return latent.posterior(encoder.apply(params['encoder'], center(x, num_levels)))

  def draw(params, keys, q, x):
    """num_draws codes z [k, B, D] with log p(x | z) [k, B], decoded as one batch."""
    z = jnp.stack([latent.sample(random.fold_in(keys, i), q) for i in range(num_draws)])
    outputs = decoder.apply(params['decoder'], z.reshape(-1, latent_dim))
    repeated = jnp.broadcast_to(x, (num_draws, *x.shape)).reshape(-1, *x.shape[1:])
    return z, likelihood.log_prob(outputs, repeated).reshape(num_draws, -1)

  def init(key, batch: Batch):
    encoder_key, decoder_key = random.split(key)
    z = jnp.zeros((batch.x.shape[0], latent_dim))
    return Variables(
      {
        'encoder': encoder.init(encoder_key, center(batch.x, num_levels)),
        'decoder': decoder.init(decoder_key, z),
      }
    )

  def loss(variables: Variables, keys, batch: Batch, step):
    q = posterior(variables.params, batch.x)
    z, log_likelihood = draw(variables.params, keys, q, batch.x)
    terms = {'reconstruction': -jnp.mean(log_likelihood, axis=0), 'kl': latent.kl(q)}
    if objective == 'iwae':
      log_weights = [
        log_p_x + latent.prior_log_prob(z_i) - latent.log_prob(q, z_i)
        for z_i, log_p_x in zip(z, log_likelihood)
      ]
      return {'loss': -bounds.importance_weighted(jnp.stack(log_weights)), **terms}
    kl = bounds.free_bits(latent.kl_groups(q), free_bits) if free_bits else terms['kl']
    weight = 1.0 if kl_weight is None else kl_weight(step)
    return {'loss': terms['reconstruction'] + weight * kl, **terms}

  def log_likelihood_bound(variables: Variables, keys, batch: Batch):
    q = posterior(variables.params, batch.x)
    outputs = decoder.apply(variables.params['decoder'], latent.sample(keys, q))
    return bounds.elbo(likelihood.log_prob(outputs, batch.x), latent.kl(q))

  def observe(params, keys, z):
    outputs = decoder.apply(params['decoder'], z)
    return likelihood.sample(keys, outputs) if sample_pixels else likelihood.mean(outputs)

  def sample(variables: Variables, keys, label):
    del label
    z_keys, x_keys = random.split(keys)
    return observe(variables.params, x_keys, latent.prior_sample(z_keys, latent_dim))

  def reconstruct(variables: Variables, keys, batch: Batch):
    z_keys, x_keys = random.split(keys)
    z = latent.sample(z_keys, posterior(variables.params, batch.x))
    return observe(variables.params, x_keys, z)

  return Method(
    init=init,
    loss=loss,
    sample=sample,
    log_likelihood_bound=log_likelihood_bound,
    reconstruct=reconstruct,
  )
