"""Diagnostics of a latent space: what the codes of a whole split carry, and how they lie.

`q` is the posteriors q(z | x_i) of all N examples of a split, of any of the families in `latents`:
every array has a leading axis N. Estimates are pairs (value, standard error over the examples), in
float64 NumPy. Divergences are in nats; means and variances of codes are in units of the prior's
standard deviation, which is 1 for N(0, I) and 1 / sqrt(12) for the unit cube.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from vaediff import uniform
from vaediff.latents import Latent


def summarize(latent: Latent, keys, q) -> dict[str, dict]:
  """All the numbers of a split that the family has: {name: {'value', 'stderr', 'unit'}}.

  'active_units': see `active_units`. 'kl', 'mutual_information', 'marginal_kl': see `split_kl`;
  the first is the sum of the others. 'mutual_information_upper': the smaller of the two upper
  bounds, the leave-one-out information and the KL. 'moment_kl': see `moment_kl`.

  keys: [N], one for each example. Raises FloatingPointError where a term is not finite, naming the
  examples, and ValueError for too few examples (see `moment_kl`).
  """
  z = latent.sample(keys, q)
  estimates = {
    'active_units': (active_units(latent, q), 'units'),
    'moment_kl': (moment_kl(q, z), 'nats'),
  }
  if latent.kl is not None:
    estimates |= {name: (value, 'nats') for name, value in _information(latent, q, z).items()}
  return {
    name: {'value': float(value), 'stderr': float(stderr), 'unit': unit}
    for name, ((value, stderr), unit) in estimates.items()
  }


def _information(latent: Latent, q, z) -> dict[str, tuple]:
  """The split of the KL, and the better of the two upper bounds on the information."""
  terms = split_kl(latent, q, z)
  for name in ('kl', 'mutual_information'):
    if not np.all(np.isfinite(terms[name])):
      wrong = np.flatnonzero(~np.isfinite(terms[name]))
      raise FloatingPointError(f'{name} is not finite for examples {wrong[:10]}')
  upper = min(terms.pop('mutual_information_left_out'), terms['kl'], key=np.mean)
  means = {name: _mean(term) for name, term in terms.items()}
  return means | {'mutual_information_upper': _mean(upper)}


def unit_variances(latent: Latent, q) -> tuple[np.ndarray, np.ndarray]:
  """Var_x(E[z | x]) of each dimension: (value, standard error), each [D]."""
  mean = _in_prior_units(q, latent.mean(q))
  squares = np.square(mean - mean.mean(0))
  return mean.var(0, ddof=1), _mean(squares)[1]


def active_units(
  latent: Latent, q, threshold: float = 0.01, num_resamples: int = 200
) -> tuple[int, float]:
  """How many dimensions have Var_x(E[z | x]) > threshold (Burda et al. 2016).

  The paper's 0.01 is for the prior N(0, I); here it is 0.01 of the prior's variance. The standard
  error is from resampling the examples: 0 where no dimension is near the threshold.
  """
  mean = _in_prior_units(q, latent.mean(q))
  mean -= mean.mean(0)
  n = len(mean)
  counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), num_resamples)
  variance = counts @ np.square(mean) / n - np.square(counts @ mean / n)
  resampled = np.sum(variance > threshold, axis=-1)
  return int(np.sum(mean.var(0, ddof=1) > threshold)), float(resampled.std(ddof=1))


def kl_per_group(latent: Latent, q) -> tuple[np.ndarray, np.ndarray]:
  """The average KL(q(z | x) | p(z)) of each group of the code, in the code's own order.

  (value, standard error), each [G]: one group for each dimension, one for all of them with a full
  covariance, whose KL does not split.
  """
  return _mean(latent.kl_groups(q))


def split_kl(latent: Latent, q, z, block_size: int = 16) -> dict[str, np.ndarray]:
  """The average KL as information and distance from the prior (Hoffman & Johnson 2016).

    E_x[KL(q(z | x) | p(z))] = I(x; z) + KL(q(z) | p(z)),  q(z) = E_x[q(z | x)]

  z: [N, D], one draw z_i ~ q(z | x_i) for each example. Returns terms [N], of which the average is
  the estimate:

  'kl': KL(q(z | x_i) | p(z)) in closed form.
  'mutual_information': log q(z_i | x_i) - log q(z_i), with q(z) the average of all N posteriors.
    Unbiased for the information between z and which of these N examples it came from, which is at
    most log N. For the I(x; z) of the distribution that they come from it is a lower bound on
    average: where it nears log N, a larger split would give more.
  'marginal_kl': the rest, 'kl' - 'mutual_information', an upper bound on average likewise.
  'mutual_information_left_out': with q(z) the average of the N - 1 other posteriors: an upper bound
    on average (both bounds: Poole et al. 2019). Infinite where z_i lies in no other box.

  The standard error over i is the whole one to first order, although all share the posteriors in
  q(z): the part of x_j in the sums of all z_i is E_{q(z)}[q(z | x_j) / q(z)] = 1, whatever x_j.
  """
  own = np.asarray(latent.log_prob(q, z), np.float64)
  everyone, others = (
    np.asarray(log_q, np.float64) for log_q in log_aggregate_posterior(latent, q, z, block_size)
  )
  kl = np.asarray(latent.kl(q), np.float64)
  return {
    'kl': kl,
    'mutual_information': own - everyone,
    'marginal_kl': kl - (own - everyone),
    'mutual_information_left_out': own - others,
  }


def log_aggregate_posterior(latent: Latent, q, z, block_size: int = 16):
  """log q(z_i), by the average of all N posteriors, and by that of the N - 1 others: each [N].

  z: [N, D]. All N^2 densities, those of block_size codes at a time: a small size, because the
  triangular solves of more columns are given to threads, which takes longer than the solves.
  """
  n = len(z)

  def log_averages(code):
    z_i, i = code
    log_q = latent.log_prob(q, z_i[None])
    others = jax.nn.logsumexp(jnp.where(jnp.arange(n) == i, -jnp.inf, log_q))
    return jnp.logaddexp(others, log_q[i]) - math.log(n), others - math.log(n - 1)

  return jax.lax.map(log_averages, (z, jnp.arange(n)), batch_size=block_size)


def moments(q, z) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
  """The mean of the aggregate posterior q(z), and the eigenvalues of its covariance, descending.

  Two pairs (value, standard error), each [D], from draws z [N, D], one for each example. Where q(z)
  is the prior they are 0 and 1, but for the spread of a sample's eigenvalues, about 2 sqrt(D / N)
  to each side (Marchenko & Pastur 1967).
  """
  z = _in_prior_units(q, z)
  eigenvalues, axes = np.linalg.eigh(np.cov(z, rowvar=False).reshape(z.shape[1], -1))
  squares = np.square((z - z.mean(0)) @ axes)
  return _mean(z), (eigenvalues[::-1], _mean(squares)[1][::-1])


def moment_kl(q, z) -> tuple[float, float]:
  """KL(N(m, S) | N(0, I)) in nats, m and S the mean and covariance of q(z): one number for both.

  For the unit cube m and S are in units of its own mean and covariance, as everywhere here. From
  draws z [N, D]. Put in, the sample's m and S exceed the true divergence by about D (D + 3) / (4 N)
  near the prior; the jackknife takes that off, so that an estimate may lie just below 0, and gives
  the standard error. Raises ValueError for fewer than D + 3 examples, which have no such S.
  """
  z = _in_prior_units(q, z)
  n, dim = z.shape
  if n < dim + 3:
    raise ValueError(f'{n} examples for codes of {dim} dimensions; there are at least {dim + 3}')
  mean, covariance = z.mean(0), np.cov(z, rowvar=False).reshape(dim, dim)
  distance = z - mean

  def kl(trace, mean, log_determinant):
    return 0.5 * (trace + np.sum(np.square(mean), axis=-1) - dim - log_determinant)

  trace, log_determinant = np.trace(covariance), np.linalg.slogdet(covariance)[1]
  # Without example i, the scatter (n - 1) S loses n / (n - 1) times distance_i distance_i^T.
  share = np.sum(distance * np.linalg.solve(covariance, distance.T).T, axis=-1) * n / (n - 1) ** 2
  square = np.sum(np.square(distance), axis=-1)
  without = kl(
    ((n - 1) * trace - n / (n - 1) * square) / (n - 2),
    mean - distance / (n - 1),
    log_determinant + dim * math.log((n - 1) / (n - 2)) + np.log1p(-share),
  )
  value = n * kl(trace, mean, log_determinant) - (n - 1) * without.mean()
  return float(value), float(math.sqrt(n - 1) * without.std())


def _in_prior_units(q, z) -> np.ndarray:
  """z [N, D] shifted and scaled so that the prior has mean 0 and covariance I, in float64."""
  z = np.asarray(z, np.float64)
  return math.sqrt(12) * (z - 0.5) if isinstance(q, uniform.Box) else z


def _mean(terms) -> tuple[np.ndarray, np.ndarray]:
  """The mean of terms [N, ...] and its standard error."""
  terms = np.asarray(terms, np.float64)
  return terms.mean(0), terms.std(0, ddof=1) / math.sqrt(len(terms))
