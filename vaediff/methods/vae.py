"""The variational autoencoder (Kingma & Welling 2014; lecture section 3).

    q(z | x) = N(mean(x), diag(exp(log_var(x)))),   p(z) = N(0, I),   p(x | z) by a likelihood

Its three ingredients (lecture section 3): the decoder's input is random, the loss has a term on the
distribution of the codes, and z = mean + scale * eps lets gradients through.
"""

import jax.numpy as jnp

from vaediff import bounds, gaussian, random
from vaediff.likelihoods import Likelihood, center
from vaediff.methods.base import Batch, Method, Variables
from vaediff.networks import Network


def num_posterior_outputs(latent_dim: int) -> int:
  """How many numbers the encoder has to output for each example: mean and log-variance."""
  return 2 * latent_dim


def vae(
  encoder: Network,
  decoder: Network,
  likelihood: Likelihood,
  latent_dim: int,
  num_levels: int,
  sample_pixels: bool = False,
) -> Method:
  """A VAE with diagonal Gaussian posterior and prior N(0, I).

  encoder: x [B, ...] centred on [-1, 1] -> [B, num_posterior_outputs(latent_dim)].
  decoder: z [B, latent_dim] -> [B, ..., likelihood.num_outputs * C].
  num_levels: of the data, 0 .. num_levels - 1.
  sample_pixels: whether samples are draws from p(x | z), or its mean on the nearest level.

  The loss is the negative ELBO with one draw of z. Terms: 'reconstruction' and 'kl'.
  """

  def posterior(params, x):
    mean, log_var = jnp.split(encoder.apply(params['encoder'], center(x, num_levels)), 2, axis=-1)
    return gaussian.Normal(mean, log_var)

  def decode(params, z):
    return decoder.apply(params['decoder'], z)

  def init(key, batch: Batch):
    encoder_key, decoder_key = random.split(key)
    z = jnp.zeros((batch.x.shape[0], latent_dim))
    return Variables(
      {
        'encoder': encoder.init(encoder_key, center(batch.x, num_levels)),
        'decoder': decoder.init(decoder_key, z),
      }
    )

  def log_likelihood_bound(variables: Variables, keys, batch: Batch):
    q = posterior(variables.params, batch.x)
    outputs = decode(variables.params, gaussian.sample(keys, q))
    return bounds.elbo(likelihood.log_prob(outputs, batch.x), gaussian.kl_to_standard_normal(q))

  def loss(variables: Variables, keys, batch: Batch, step):
    del step
    terms = log_likelihood_bound(variables, keys, batch)
    return {'loss': -terms['elbo'], 'reconstruction': terms['reconstruction'], 'kl': terms['kl']}

  def observe(params, keys, z):
    outputs = decode(params, z)
    return likelihood.sample(keys, outputs) if sample_pixels else likelihood.mean(outputs)

  def sample(variables: Variables, keys, label):
    del label
    z_keys, x_keys = random.split(keys)
    z = random.normal(z_keys, (keys.shape[0], latent_dim))
    return observe(variables.params, x_keys, z)

  def reconstruct(variables: Variables, keys, batch: Batch):
    z_keys, x_keys = random.split(keys)
    z = gaussian.sample(z_keys, posterior(variables.params, batch.x))
    return observe(variables.params, x_keys, z)

  return Method(
    init=init,
    loss=loss,
    sample=sample,
    log_likelihood_bound=log_likelihood_bound,
    reconstruct=reconstruct,
  )
