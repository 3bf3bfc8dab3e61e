"""The plain autoencoder (lecture section 2.1): reconstruction only.

    z = encoder(x),   p(x | z)

Nothing is asked of the codes, so that nobody knows which ones to decode to get a sample: see
`coding.make` for the three distributions that may be tried.
"""

from vaediff.latents import POINT
from vaediff.likelihoods import Likelihood
from vaediff.methods import coding
from vaediff.methods.base import Batch, Method, Variables
from vaediff.networks import Network


def autoencoder(
  encoder: Network,
  decoder: Network,
  likelihood: Likelihood,
  latent_dim: int,
  num_levels: int,
  sample_pixels: bool = False,
  **sampling,
) -> Method:
  """A plain autoencoder, with the loss -log p(x | z) in nats.

  encoder: x [B, ...] centred on [-1, 1] -> z [B, latent_dim]. decoder, likelihood, num_levels,
  sample_pixels: see `coding.make_code`. sampling: which codes are decoded to samples, and their
  refinement (see `coding.make`).
  """
  code = coding.make_code(
    encoder, decoder, likelihood, POINT, latent_dim, num_levels, sample_pixels
  )

  def loss(variables: Variables, keys, batch: Batch, step):
    del keys, step
    z = code.latent.mean(code.posterior(variables, batch.x))
    return {'loss': -code.log_likelihood(variables, batch.x, z)}

  return coding.make(code, loss, **sampling)
