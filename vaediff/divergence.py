"""The KL divergence beyond closed forms of Gaussians (lecture section 3.2).

    KL(q | p) = E_q[log q - log p] >= 0, in nats

between finite distributions, by Monte Carlo for any pair; what it says of a coin; and the two ways
to fit a Gaussian to a mixture by it, which differ because it is not symmetric. The coin and the
fits are in float64 NumPy, whatever JAX's precision.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, special

from vaediff import gaussian
from vaediff.quadrature import log_normal_density, standard_normal


def kl_finite(q, p):
  """KL(q | p) between distributions on K outcomes, in nats: q, p [..., K] -> [...].

  q and p are probabilities that sum to 1 over the last axis. Infinite where p has no mass and q
  has; exactly 0 where the two are equal. Each outcome adds q log(q / p) - q + p >= 0, the last two
  of which sum to 0: so q and p that almost agree keep float32's relative accuracy, and rounding in
  the sum to 1 does not show.
  """
  q, p = jnp.asarray(q), jnp.asarray(p)
  excess = (p - q) / q
  is_near = jnp.abs(excess) < 0.5
  # With u = log(p / q), the terms are q (e^u - 1 - u).
  near = q * gaussian.expm1_minus_identity(jnp.log1p(jnp.where(is_near, excess, 0.0)))
  return jnp.sum(jnp.where(is_near, near, jax.scipy.special.kl_div(q, p)), axis=-1)


def monte_carlo_kl(keys, sample, log_q, log_p, control_variate: bool = False):
  """An estimate of KL(q | p) with its standard error, each [B] nats, from draws z ~ q.

  The mean of log q(z) - log p(z), which may be negative. With control_variate, that of
  p(z) / q(z) - 1 - log(p(z) / q(z)), each >= 0 (k3 of Schulman 2020, "Approximating KL
  Divergence"): of smaller variance where q and p are close, of larger or infinite one where p has
  heavier tails, and unbiased only if p has no mass outside the support of q.

  keys: [n], one for each draw, n > 1. sample(key) -> z [B, ...] ~ q; log_q(z), log_p(z) -> [B].
  """

  def log_ratio(key):
    z = sample(key)
    return log_p(z) - log_q(z)

  u = jax.vmap(log_ratio)(keys)
  terms = gaussian.expm1_minus_identity(u) if control_variate else -u
  return jnp.mean(terms, axis=0), jnp.std(terms, axis=0, ddof=1) / math.sqrt(len(keys))


# The coin


def coin_log_prob(n, heads, p=0.5):
  """The exact log-probability of `heads` heads in n tosses, each heads with probability p.

  Arguments are numbers or arrays, broadcast. By log-gamma functions: nothing underflows.
  """
  log_choose = special.gammaln(n + 1) - special.gammaln(heads + 1) - special.gammaln(n - heads + 1)
  return log_choose + special.xlogy(heads, p) + special.xlog1py(n - heads, -p)


def coin_log_tail(n: int, heads: int, p: float = 0.5) -> float:
  """The exact log-probability of `heads` heads or more in n tosses."""
  return float(special.logsumexp(coin_log_prob(n, np.arange(heads, n + 1), p)))


def coin_exponent(fraction, p=0.5):
  """D(fraction | p), the KL between coins that show heads with these probabilities, in nats.

  For n tosses of the coin p, "the probability that it looks like" the other coin, that `fraction`
  of them are heads, "is around e^{-n D}" (lecture section 3.2). Precisely, for n * fraction an
  integer (Cover & Thomas 2006, chapter 11),

    e^{-n D} / (n + 1)^2 <= P(heads = n fraction) <= e^{-n D},

  and for fraction >= p also P(heads >= n fraction) <= e^{-n D} (Chernoff). On a logarithmic scale
  the exact probability falls behind by 1/2 log n, next to nothing beside n D.
  """
  fraction, p = np.float64(fraction), np.float64(p)
  return special.kl_div(fraction, p) + special.kl_div(1 - fraction, 1 - p)


# Gaussian fits to a mixture


class GaussianFit(NamedTuple):
  """Gaussians on the line with what they leave of the divergence, in nats."""

  mean: np.ndarray
  variance: np.ndarray
  kl: np.ndarray


def forward_fit(weights, means, variances) -> GaussianFit:
  """The Gaussian g that minimises KL(p | g), p a mixture on the line: it covers all of p.

  It has the mean and variance of p; the divergence is by quadrature. weights, means, variances:
  [K], weights that sum to 1. Returns scalars. Raises ValueError for other shapes.
  """
  weights, means, variances = _mixture(weights, means, variances)
  mean = weights @ means
  variance = weights @ (variances + (means - mean) ** 2)
  z, density = standard_normal(2001, reach=10.0)
  x = means[:, None] + np.sqrt(variances)[:, None] * z
  log_ratio = _log_mixture(x, weights, means, variances)[0] - log_normal_density(x, mean, variance)
  return GaussianFit(mean, variance, weights @ (log_ratio @ density))


def reverse_fit(weights, means, variances) -> GaussianFit:
  """The Gaussians g at which KL(g | p) is a local minimum, p a mixture: each sits on some of p.

  By quasi-Newton steps in the mean and the log of the standard deviation, on the divergence by
  quadrature, from each component and from `forward_fit`: K + 1 fits, several of which may agree, by
  growing divergence; the first is the best. Arguments as in `forward_fit`; returns [K + 1] arrays.
  """
  weights, means, variances = _mixture(weights, means, variances)
  z, density = standard_normal(2001, reach=10.0)

  def objective(parameters):
    """KL(g | p) and its gradient, x = mean + std z being reparameterised."""
    mean, log_std = parameters
    std = np.exp(log_std)
    log_p, score = _log_mixture(mean + std * z, weights, means, variances)
    kl = -log_std - 0.5 * math.log(2 * math.pi * math.e) - density @ log_p
    return kl, np.array([-density @ score, -1 - density @ (score * std * z)])

  start = forward_fit(weights, means, variances)
  starts = zip(np.append(means, start.mean), np.append(variances, start.variance))
  found = [
    optimize.minimize(objective, [mean, 0.5 * np.log(variance)], jac=True, options={'gtol': 1e-8})
    for mean, variance in starts
  ]
  found.sort(key=lambda result: result.fun)
  mean, log_std = np.array([result.x for result in found]).T
  return GaussianFit(mean, np.exp(2 * log_std), np.array([result.fun for result in found]))


def _mixture(weights, means, variances):
  arrays = tuple(np.asarray(array, np.float64) for array in (weights, means, variances))
  shapes = [array.shape for array in arrays]
  if len(shapes[0]) != 1 or len(set(shapes)) > 1:
    raise ValueError(f'weights, means, variances have shapes {shapes}; each of them is [K]')
  return arrays


def _log_mixture(x, weights, means, variances):
  """log p(x) and its derivative by x, for x of any shape."""
  log_joint = np.log(weights) + log_normal_density(x[..., None], means, variances)
  log_p = special.logsumexp(log_joint, axis=-1)
  share = np.exp(log_joint - log_p[..., None])
  return log_p, np.sum(share * (means - x[..., None]) / variances, axis=-1)
