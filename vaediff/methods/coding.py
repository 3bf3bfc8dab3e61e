"""What methods with a code share: which codes are decoded to samples, and their refinement.

A sample is a decoded code. The code is drawn from the prior, or from a distribution fitted after
training to the codes of the training examples: one Gaussian, or a mixture of them (lecture section
2.1, "we don't know the latent distribution"; Ghosh et al. 2020, section 4). Then it may be refined
(lecture section 3.4).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaediff import random
from vaediff.latents import Latent
from vaediff.likelihoods import Likelihood, center
from vaediff.methods.base import Batch, Code, Method, Variables
from vaediff.networks import Network

CODES = ('prior', 'normal', 'mixture')
REFINEMENTS = ('mean', 'sample')


def make_code(
  encoder: Network,
  decoder: Network,
  likelihood: Likelihood,
  latent: Latent,
  dim: int,
  num_levels: int | None,
  sample_pixels: bool = False,
) -> Code:
  """The code between two networks.

  encoder: x [B, ...] centred on [-1, 1] -> [B, latent.num_outputs(dim)].
  decoder: z [B, dim] -> [B, ..., likelihood.num_outputs * C]. It sees z less the prior's mean, over
    the prior's scale: inputs of one size, whatever the prior.
  num_levels: of the data, 0 .. num_levels - 1; None for real numbers, which are not centred.
  sample_pixels: whether a decoded picture is a draw from p(x | z), or its mean, rounded to a level.
  """

  def init(key, batch: Batch):
    encoder_key, decoder_key = random.split(key)
    return Variables(
      {
        'encoder': encoder.init(encoder_key, center(batch.x, num_levels)),
        'decoder': decoder.init(decoder_key, jnp.zeros((batch.x.shape[0], dim))),
      }
    )

  def posterior(variables: Variables, x):
    return latent.posterior(encoder.apply(variables.params['encoder'], center(x, num_levels)))

  def decoder_outputs(variables: Variables, z):
    z = (z - latent.prior_mean) / latent.prior_scale
    return decoder.apply(variables.params['decoder'], z)

  def log_likelihood(variables: Variables, x, z):
    return likelihood.log_prob(decoder_outputs(variables, z), x)

  def decode(variables: Variables, keys, z):
    outputs = decoder_outputs(variables, z)
    return likelihood.sample(keys, outputs) if sample_pixels else likelihood.mean(outputs)

  return Code(dim, latent, init, posterior, log_likelihood, decode)


class FittedCodes(NamedTuple):
  """sum_k weights[k] N(means[k], L_k L_k^T), L_k = scale_trils[k].

  weights: [K]. means: [K, D]. scale_trils: [K, D, D], lower triangular.
  """

  weights: jax.Array
  means: jax.Array
  scale_trils: jax.Array


def fit_codes(codes: np.ndarray, num_components: int) -> FittedCodes:
  """The mixture of full-covariance Gaussians of most likelihood for codes [N, D] (scikit-learn).

  One component is the Gaussian with the codes' mean and covariance; more are fitted by EM from a
  fixed seed, so that the same codes give the same mixture. Each covariance has 1e-6 more on its
  diagonal, for codes that have no variance in some direction. Raises ValueError for fewer codes
  than components.
  """
  if len(codes) < num_components:
    raise ValueError(f'{len(codes)} codes for {num_components} components; give at least as many')
  from sklearn.mixture import GaussianMixture  # two seconds to import

  mixture = GaussianMixture(num_components, covariance_type='full', random_state=0)
  mixture.fit(np.asarray(codes, np.float64))
  parts = mixture.weights_, mixture.means_, np.linalg.cholesky(mixture.covariances_)
  return FittedCodes(*(part.astype(np.float32) for part in parts))


def sample_codes(keys, fitted: FittedCodes):
  """One draw from the mixture for each of the keys [N]: z [N, D]."""
  component_keys, z_keys = random.split(keys)
  log_weights = jnp.log(jnp.asarray(fitted.weights))
  k = jax.vmap(lambda key: jax.random.categorical(key, log_weights))(component_keys)
  eps = random.normal(z_keys, (len(keys), fitted.means.shape[-1]))
  return fitted.means[k] + jnp.einsum('nij,nj->ni', fitted.scale_trils[k], eps)


def refine(code: Code, variables: Variables, keys, z, iterations: int, by: str = 'mean'):
  """Codes z [N, D] after decoding and encoding them `iterations` times (lecture section 3.4).

  by: 'mean', the mean of q(z | x) of the decoded picture x, or 'sample', a draw from it.
  """

  def iterate(i, z):
    decode_keys, encode_keys = random.split(random.fold_in(keys, i))
    q = code.posterior(variables, code.decode(variables, decode_keys, z))
    return code.latent.mean(q) if by == 'mean' else code.latent.sample(encode_keys, q)

  return jax.lax.fori_loop(0, iterations, iterate, z)


def make(
  code: Code,
  loss: Callable,
  *,
  codes: str = 'prior',
  num_components: int = 10,
  refinements: int = 0,
  refine_by: str = 'mean',
  **functions,
) -> Method:
  """A method whose samples are decoded codes.

  codes: which are decoded: 'prior', draws from the prior; 'normal', from one Gaussian fitted to the
    codes of the training examples, one draw from q(z | x) for each; 'mixture', from a mixture of
    num_components of them. refinements, refine_by: see `refine`.
  functions: what else the method has.

  Raises ValueError for an unknown choice, a negative number of refinements, less than one
  component.
  """
  for name, value, allowed in (('codes', codes, CODES), ('refine_by', refine_by, REFINEMENTS)):
    if value not in allowed:
      raise ValueError(f'{name} is {value!r}; it is one of {", ".join(allowed)}')
  for name, value, least in (
    ('refinements', refinements, 0),
    ('num_components', num_components, 1),
  ):
    if value < least:
      raise ValueError(f'{name} is {value}; it is at least {least}')

  def statistics(variables: Variables, keys, batch: Batch):
    return {'codes': code.latent.sample(keys, code.posterior(variables, batch.x))}

  def sample(variables: Variables, keys, label):
    del label
    z_keys, x_keys, refine_keys = random.split(keys, 3)
    if codes == 'prior':
      z = code.latent.prior_sample(z_keys, code.dim)
    elif variables.fitted == ():
      raise ValueError(f'codes is {codes!r}, and nothing is fitted: see Method.fit')
    else:
      z = sample_codes(z_keys, variables.fitted)
    z = refine(code, variables, refine_keys, z, refinements, refine_by)
    return code.decode(variables, x_keys, z)

  def reconstruct(variables: Variables, keys, batch: Batch):
    z_keys, x_keys = random.split(keys)
    z = code.latent.sample(z_keys, code.posterior(variables, batch.x))
    return code.decode(variables, x_keys, z)

  if codes != 'prior':
    components = 1 if codes == 'normal' else num_components
    functions['statistics'] = statistics
    functions['fit'] = lambda statistics: fit_codes(statistics['codes'], components)
  return Method(
    init=code.init, loss=loss, sample=sample, reconstruct=reconstruct, code=code, **functions
  )
