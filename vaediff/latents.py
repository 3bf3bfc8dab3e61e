"""Code distributions of a VAE: a family of posteriors q(z | x) with the prior p(z) it belongs to.

The lecture's two candidates for the code (section 3.1): Gaussian, with a diagonal or a full
covariance, against the prior N(0, I); and uniform on a box, against the prior uniform on the unit
cube. All of them are reparameterised, and their KL is in closed form. Beside them the code of a
plain autoencoder, a point.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vaediff import gaussian, random, uniform


class Latent(NamedTuple):
  """A family of posteriors and its prior, as pure functions. D is the dimension of the code.
  What a family cannot have is None.

  num_outputs(D) -> how many numbers the encoder has to output for each example
  posterior(outputs [B, num_outputs(D)]) -> q
  sample(keys [B], q) -> z [B, D]                 reparameterised
  mean(q) -> z [B, D]
  log_prob(q, z) -> [B]
  kl(q) -> [B]                                    KL(q | prior), in closed form
  kl_groups(q) -> [B, G]                          parts of kl that free bits are given to
  prior_sample(keys [B], D) -> z [B, D]
  prior_log_prob(z) -> [B]
  prior_mean, prior_scale                         mean and standard deviation of each dimension
  """

  num_outputs: Callable[[int], int]
  posterior: Callable
  sample: Callable
  mean: Callable
  log_prob: Callable | None
  kl: Callable | None
  kl_groups: Callable | None
  prior_sample: Callable
  prior_log_prob: Callable
  prior_mean: float = 0.0
  prior_scale: float = 1.0


def _diagonal_posterior(outputs):
  return gaussian.Normal(*jnp.split(outputs, 2, axis=-1))


def _full_posterior(outputs):
  """mean, log-diagonal and strictly lower triangle, in this order, of the square root L."""
  # D + D (D + 1) / 2 numbers, so that (D + 3/2)^2 = 2 n + 9/4.
  dim = round((2 * outputs.shape[-1] + 2.25) ** 0.5 - 1.5)
  mean, log_diagonal, lower = jnp.split(outputs, (dim, 2 * dim), axis=-1)
  rows, columns = jnp.tril_indices(dim, -1)
  scale_tril = jax.vmap(jnp.diag)(jnp.exp(log_diagonal))
  return gaussian.MultivariateNormal(mean, scale_tril.at[:, rows, columns].set(lower))


def _standard_normal_log_prob(z):
  return gaussian.log_prob(gaussian.Normal(jnp.zeros_like(z), jnp.zeros_like(z)), z)


def _unit_cube_log_prob(z):
  return uniform.log_prob(uniform.Box(jnp.zeros_like(z), jnp.zeros_like(z)), z)


DIAGONAL = Latent(
  num_outputs=lambda dim: 2 * dim,
  posterior=_diagonal_posterior,
  sample=gaussian.sample,
  mean=lambda q: q.mean,
  log_prob=gaussian.log_prob,
  kl=gaussian.kl_to_standard_normal,
  kl_groups=gaussian.kl_to_standard_normal_per_dimension,
  prior_sample=lambda keys, dim: random.normal(keys, (keys.shape[0], dim)),
  prior_log_prob=_standard_normal_log_prob,
)

# The KL of a full covariance does not split into dimensions: it is one group.
FULL = DIAGONAL._replace(
  num_outputs=lambda dim: dim + dim * (dim + 1) // 2,
  posterior=_full_posterior,
  kl_groups=lambda q: gaussian.kl_to_standard_normal(q)[:, None],
)

BOX = Latent(
  num_outputs=lambda dim: 2 * dim,
  posterior=uniform.box_inside_unit_cube,
  # lower + width may round to just above 1, where the prior has no mass.
  sample=lambda key, q: jnp.minimum(uniform.sample(key, q), 1.0),
  mean=lambda q: q.lower + 0.5 * jnp.exp(q.log_width),
  log_prob=uniform.log_prob,
  kl=uniform.kl_to_unit_cube,
  kl_groups=lambda q: -q.log_width,
  prior_sample=lambda keys, dim: random.uniform(keys, (keys.shape[0], dim)),
  prior_log_prob=_unit_cube_log_prob,
  prior_mean=0.5,
  prior_scale=12**-0.5,
)

# The code of a plain autoencoder: a point, of which there is no density and no KL.
POINT = DIAGONAL._replace(
  num_outputs=lambda dim: dim,
  posterior=lambda outputs: gaussian.Normal(outputs, jnp.full_like(outputs, -jnp.inf)),
  sample=lambda keys, q: q.mean,
  log_prob=None,
  kl=None,
  kl_groups=None,
)

# By (prior, posterior): the pairs whose KL is finite and in closed form.
LATENTS = {
  ('normal', 'diagonal'): DIAGONAL,
  ('normal', 'full'): FULL,
  ('uniform', 'box'): BOX,
}
