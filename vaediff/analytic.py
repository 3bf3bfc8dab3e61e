"""Exact answers: what an optimal model would say, for data whose distribution is known.

Gaussian data and mixtures of Gaussians under the forward process, the optimal variance of the
reverse step, probabilistic PCA (the linear VAE), and how far the true reverse step is from a
Gaussian (lecture section 4, key idea 1). Pure functions, in the dtype of their inputs and in nats.
`log_snr_*` are scalars or [B], as in `forward_process`, with s < t; +inf stands for clean data, so
that a reverse step to log_snr_s = +inf is q(x_0 | x_t), and its mean the optimal denoiser.

Every covariance commutes with every other (all are functions of the data's own), so a full
covariance is a diagonal one in the coordinates of its principal axes. There, with C the variance of
the data along an axis and C_t = alpha_bar_t C + 1 - alpha_bar_t that of x_t,

    Cov(x_s, x_t) = signal_t / signal_s C_s,    Var(x_s | x_t) = Var(x_t | x_s) C_s / C_t

in a form that subtracts nothing, however small the step.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaediff import forward_process, gaussian
from vaediff.forward_process import over_event
from vaediff.gaussian import Gaussian, MultivariateNormal, Normal
from vaediff.quadrature import log_normal_density, standard_normal


class GaussianData(NamedTuple):
  """x_0 ~ N(mean, covariance).

  mean: [...], the event. covariance: [D, D] for an event [D], positive definite, or the diagonal
  of one, positive, in the shape of the mean. Functions return a `MultivariateNormal` for the first
  and a `Normal` for the second.
  """

  mean: jax.Array
  covariance: jax.Array


class Mixture(NamedTuple):
  """x_0 ~ sum_k weights[k] N(means[k], covariances[k]).

  weights: [K], positive, with sum 1. means: [K, D]. covariances: [K, D, D], positive definite.
  """

  weights: jax.Array
  means: jax.Array
  covariances: jax.Array


def gaussian_marginal(data: GaussianData, log_snr_t) -> Gaussian:
  """q(x_t) = N(sqrt(alpha_bar_t) mean, alpha_bar_t C + (1 - alpha_bar_t) I).

  log_snr_t: scalar (the batch axis is 1) or [B]. At +inf it is the distribution of the data, with
  `gaussian.log_prob` their exact log-likelihood and `gaussian.entropy` its expected negative.
  """
  variance, axes = _principal_axes(data)
  log_snr_t = over_event(jnp.atleast_1d(log_snr_t), jnp.asarray(data.mean)[None])
  mean = forward_process.signal_scale(log_snr_t) * data.mean
  return _as_gaussian(mean, _marginal_variance(variance, log_snr_t), axes)


def gaussian_reverse_step(data: GaussianData, x_t, log_snr_s, log_snr_t) -> Gaussian:
  """q(x_s | x_t) for s < t, a Gaussian whatever the size of the step.

  By conditioning the joint Gaussian of (x_s, x_t) (Bishop 2006, eq. 2.81-2.82). x_t: [B, ...].
  """
  variance, axes = _principal_axes(data)
  s, t = over_event(log_snr_s, x_t), over_event(log_snr_t, x_t)
  offset = x_t - forward_process.signal_scale(t) * data.mean
  gained = _scale_along(axes, _reverse_gain(variance, s, t), offset)
  mean = forward_process.signal_scale(s) * data.mean + gained
  return _as_gaussian(mean, _reverse_variance(variance, s, t), axes)


def gaussian_denoiser(data: GaussianData, x_t, log_snr_t):
  """E[x_0 | x_t], [B, ...], the denoiser of least squared error. x_t: [B, ...]."""
  return gaussian_reverse_step(data, x_t, jnp.inf, log_snr_t).mean


def gaussian_probability_flow(data: GaussianData, x_t, log_snr_t, log_snr_s):
  """x_s from x_t by the probability-flow ODE (Song et al. 2021, eq. 13), exactly. [B, ...].

  Along each principal axis x - E[x] is scaled by sqrt(C_s / C_t): linear in x_t, it carries q(x_t)
  into q(x_s), in either direction. x_t: [B, ...].
  """
  variance, axes = _principal_axes(data)
  s, t = over_event(log_snr_s, x_t), over_event(log_snr_t, x_t)
  scale = jnp.sqrt(_marginal_variance(variance, s) / _marginal_variance(variance, t))
  offset = x_t - forward_process.signal_scale(t) * data.mean
  return forward_process.signal_scale(s) * data.mean + _scale_along(axes, scale, offset)


def gaussian_reverse_model(data: GaussianData, log_snr) -> Callable[..., Gaussian]:
  """The model p(x_{t-1} | x_t) = q(x_{t-1} | x_t), as `bounds.diffusion_bound` takes it.

  log_snr: table [T+1]. Returns (x_t [B, ...], t, a scalar or [B]) -> Gaussian.
  """

  def step(x_t, t):
    table = jnp.asarray(log_snr, x_t.dtype)
    return gaussian_reverse_step(data, x_t, table[t - 1], table[t])

  return step


def denoising_reverse_model(denoiser: Callable, log_snr, log_var) -> Callable[..., Normal]:
  """The model N(E[x_{t-1} | x_t], exp(log_var[t-1]) I), as `bounds.diffusion_bound` takes it.

  The mean of q(x_{t-1} | x_t, x_0) is linear in x_0, so that with the optimal denoiser in the place
  of x_0 it is E[x_{t-1} | x_t], the optimal mean at any variance (Bao et al. 2022, theorem 1).

  denoiser: (x_t [B, ...], log_snr_t, of the shape of t) -> E[x_0 | x_t]. log_snr: table [T+1].
  log_var: [T], at index t - 1. Returns (x_t, t, a scalar or [B]) -> Normal.
  """

  def step(x_t, t):
    table, log_vars = jnp.asarray(log_snr, x_t.dtype), jnp.asarray(log_var, x_t.dtype)
    x_0 = denoiser(x_t, table[t])
    mean = forward_process.posterior(x_0, x_t, table[t - 1], table[t]).mean
    return Normal(mean, over_event(log_vars[t - 1], x_t))

  return step


def gaussian_expected_kl(data: GaussianData, log_snr_s, log_snr_t, log_var=None):
  """E[KL(q(x_s | x_t, x_0) | p(x_s | x_t))] over q(x_0, x_t), in nats: a term of the bound.

  Of the model p = q(x_s | x_t) for log_var None, where it is the mutual information of x_0 and x_s
  given x_t; else of p = N(E[x_s | x_t], exp(log_var) I). log_snr_s (finite), log_snr_t, log_var:
  scalars or [N], which is the shape of the result.
  """
  variance, _ = _principal_axes(data)
  s, t = jnp.asarray(log_snr_s, variance.dtype), jnp.asarray(log_snr_t, variance.dtype)
  posterior_variance = _reverse_variance(variance.reshape(-1), jnp.inf, t[..., None])
  if log_var is not None:
    return expected_kl(posterior_variance.mean(-1), variance.size, s, t, log_var)
  snr_difference = jnp.exp(t) * jnp.expm1(s - t)
  return 0.5 * jnp.sum(jnp.log1p(snr_difference[..., None] * posterior_variance), -1)


def expected_kl(mean_posterior_variance, dim: int, log_snr_s, log_snr_t, log_var):
  """E[KL(q(x_s | x_t, x_0) | N(E[x_s | x_t], exp(log_var) I))] over q(x_0, x_t), in nats.

  For data of any distribution: mean_posterior_variance is E[tr Cov(x_0 | x_t)] / dim. At the
  variance of q(x_s | x_t, x_0) it is (SNR(s) - SNR(t)) / 2 E[tr Cov(x_0 | x_t)] (Kingma et al.
  2021, eq. 13). log_snr_s (finite), log_snr_t, log_var: scalars or [N], as the result.
  """
  log_ratio = forward_process.posterior_log_var(log_snr_s, log_snr_t) - log_var
  excess = _posterior_weight(log_snr_s, log_snr_t) ** 2 * mean_posterior_variance
  return 0.5 * dim * (gaussian.expm1_minus_identity(log_ratio) + excess * jnp.exp(-log_var))


def gaussian_expected_bound(data: GaussianData, log_snr, log_var=None):
  """What `bounds.diffusion_bound` is on average over x_0 ~ data, in nats, without any sampling.

  Of the models of `gaussian_expected_kl`; the decoder p(x_0 | x_1) is their reverse step at t = 1.
  log_snr: table [T+1]. log_var: None or [T], at index t - 1. Returns {'elbo', 'prior_kl',
  'diffusion_kl', 'reconstruction'}, scalars. -elbo is at least the entropy of the data.
  """
  variance, _ = _principal_axes(data)
  log_snr = jnp.asarray(log_snr, variance.dtype)
  first, last = log_snr[1], log_snr[-1]
  posterior_variance = _reverse_variance(variance, jnp.inf, first)
  log_var_1 = jnp.log(posterior_variance) if log_var is None else log_var[0]
  reconstruction = 0.5 * jnp.sum(
    gaussian.LOG_2PI + log_var_1 + posterior_variance * jnp.exp(-log_var_1)
  )
  second_moment = jnp.sum(jnp.square(data.mean)) + jnp.sum(variance)
  prior_kl = 0.5 * (
    variance.size * gaussian.expm1_minus_identity(jax.nn.log_sigmoid(-last))
    + jax.nn.sigmoid(last) * second_moment
  )
  log_vars = None if log_var is None else jnp.asarray(log_var, variance.dtype)[1:]
  diffusion_kl = jnp.sum(gaussian_expected_kl(data, log_snr[1:-1], log_snr[2:], log_vars))
  return {
    'elbo': -(prior_kl + diffusion_kl + reconstruction),
    'prior_kl': prior_kl,
    'diffusion_kl': diffusion_kl,
    'reconstruction': reconstruction,
  }


def mixture_log_prob(data: Mixture, x_t, log_snr_t):
  """log q(x_t) in nats, [B]. x_t: [B, D]. At log_snr_t = +inf, of the data themselves."""
  return jax.nn.logsumexp(_components(data, x_t, log_snr_t).log_joint, axis=1)


def mixture_responsibilities(data: Mixture, x_t, log_snr_t):
  """q(k | x_t), the probability that x_t came from component k. [B, K] (Bishop 2006, eq. 9.23)."""
  return jax.nn.softmax(_components(data, x_t, log_snr_t).log_joint, axis=1)


def mixture_score(data: Mixture, x_t, log_snr_t):
  """The gradient of log q(x_t) in x_t, [B, D]: the components' scores by responsibility."""
  c = _components(data, x_t, log_snr_t)
  score = -_from_axes(c.axes, c.offset / c.marginal_variance)
  return jnp.einsum('bk,bkd->bd', jax.nn.softmax(c.log_joint, axis=1), score, precision='highest')


def mixture_reverse_step(data: Mixture, x_t, log_snr_s, log_snr_t) -> Mixture:
  """q(x_s | x_t) for s < t: again a mixture, with the responsibilities as its weights.

  x_t: [B, D]. Returns a Mixture for each example: weights [B, K], means [B, K, D], covariances
  [B, K, D, D] ([1, K, D, D] for scalar log_snr: a component's covariance does not depend on x_t).
  """
  c = _components(data, x_t, log_snr_t)
  s, t = (over_event(log_snr, c.offset) for log_snr in (log_snr_s, log_snr_t))
  variance = _reverse_variance(c.variance, s, t)
  variance = jnp.broadcast_to(variance, jnp.broadcast_shapes(variance.shape, (1, 1, 1)))
  return Mixture(
    jax.nn.softmax(c.log_joint, axis=1),
    forward_process.signal_scale(s) * data.means
    + _from_axes(c.axes, _reverse_gain(c.variance, s, t) * c.offset),
    jnp.einsum('kij,bkj,klj->bkil', c.axes, variance, c.axes, precision='highest'),
  )


def mixture_moments(mixture: Mixture):
  """The mean [B, D] and covariance [B, D, D] of mixtures with a batch axis.

  Of `mixture_reverse_step`: E[x_s | x_t] and Cov(x_s | x_t).
  """
  weights, means, covariances = mixture
  mean = jnp.einsum('bk,bkd->bd', weights, means, precision='highest')
  offset = means - mean[:, None]
  spread = covariances + offset[..., :, None] * offset[..., None, :]
  return mean, jnp.einsum('bk,bkij->bij', weights, spread, precision='highest')


def mixture_denoiser(data: Mixture, x_t, log_snr_t):
  """E[x_0 | x_t], [B, D], the denoiser of least squared error. x_t: [B, D]."""
  return mixture_moments(mixture_reverse_step(data, x_t, jnp.inf, log_snr_t))[0]


def posterior_variance_from_score(mean_squared_score, log_snr_t):
  """E[tr Cov(x_0 | x_t)] / D from E|score|^2 / D, score the gradient of log q(x_t).

  (1 - alpha_bar_t) / alpha_bar_t (1 - (1 - alpha_bar_t) E|score|^2 / D), the last factor that of
  Bao et al. 2022, theorem 1; cancels where the noise is small beside the data.
  """
  return jnp.exp(-log_snr_t) * (1 - jax.nn.sigmoid(-log_snr_t) * mean_squared_score)


def optimal_reverse_variance(log_snr_s, log_snr_t, mean_posterior_variance):
  """The variance that minimises `expected_kl`, for N(E[x_s | x_t], variance I): Analytic-DPM.

      variance of q(x_s | x_t, x_0) + (weight of x_0 in its mean)^2 E[tr Cov(x_0 | x_t)] / D

  (Bao et al. 2022, theorem 1): E[tr Cov(x_s | x_t)] / D by the law of total variance. For data that
  are a point it is Ho et al.'s smaller choice, for data N(0, I) their larger one. log_snr_s may be
  +inf. All scalars or [N].
  """
  small = jnp.exp(forward_process.posterior_log_var(log_snr_s, log_snr_t))
  return small + _posterior_weight(log_snr_s, log_snr_t) ** 2 * mean_posterior_variance


class ProbabilisticPCA(NamedTuple):
  """p(z) = N(0, I), p(x | z) = N(loadings z + mean, noise_variance I) (Tipping & Bishop 1999).

  loadings: [D, d], their W. mean: [D]. noise_variance: a positive scalar, their sigma^2. A VAE with
  a linear decoder and Gaussian likelihood is this model (Lucas et al. 2019).
  """

  loadings: jax.Array
  mean: jax.Array
  noise_variance: jax.Array


def pca_maximum_likelihood(mean, covariance, latent_dim: int) -> ProbabilisticPCA:
  """The maximum-likelihood model of data with this mean [D] and covariance [D, D] (divided by N).

  Tipping & Bishop 1999, eq. 7-8, the arbitrary rotation being I: the noise is the mean of the
  D - latent_dim smallest eigenvalues, the loadings are orthogonal. Raises ValueError for a
  latent_dim outside 1..D-1. Where the smallest eigenvalues are all 0 so is the noise, and the
  likelihood has no bound.
  """
  D = covariance.shape[0]
  if not 1 <= latent_dim < D:
    raise ValueError(f'latent_dim is {latent_dim}; with {D}-dimensional data it lies in 1..{D - 1}')
  eigenvalues, axes = jnp.linalg.eigh(covariance)
  noise_variance = jnp.mean(eigenvalues[: D - latent_dim])
  scale = jnp.sqrt(eigenvalues[D - latent_dim :] - noise_variance)
  return ProbabilisticPCA(axes[:, D - latent_dim :] * scale, jnp.asarray(mean), noise_variance)


def pca_marginal(model: ProbabilisticPCA) -> MultivariateNormal:
  """p(x) = N(mean, W W^T + sigma^2 I), batch axis 1 (Tipping & Bishop 1999, section 3.1).

  With `gaussian.log_prob`, the exact log-likelihood that the ELBO bounds.
  """
  W = model.loadings
  noise = model.noise_variance * jnp.eye(len(W), dtype=W.dtype)
  covariance = jnp.matmul(W, W.T, precision='highest') + noise
  return MultivariateNormal(model.mean[None], jnp.linalg.cholesky(covariance)[None])


def pca_posterior(model: ProbabilisticPCA, x) -> MultivariateNormal:
  """p(z | x) = N(P^-1 W^T (x - mean) / sigma^2, P^-1), P = W^T W / sigma^2 + I. x: [B, D].

  Tipping & Bishop 1999, eq. 6, their M being sigma^2 P.
  """
  precision = _pca_precision(model)
  scale_tril = jnp.linalg.cholesky(jnp.linalg.inv(precision))
  mean = _pca_posterior_mean(model, precision, x)
  return MultivariateNormal(mean, jnp.broadcast_to(scale_tril, mean.shape + mean.shape[-1:]))


def pca_diagonal_posterior(model: ProbabilisticPCA, x) -> Normal:
  """The diagonal q(z | x) with the largest ELBO: the exact mean, variances 1 / diag(P). x: [B, D].

  It minimises KL(q | p(z | x)), which keeps the diagonal of the precision, not of the covariance
  (Bishop 2006, section 10.1.2).
  """
  precision = _pca_precision(model)
  mean = _pca_posterior_mean(model, precision, x)
  return Normal(mean, jnp.broadcast_to(-jnp.log(jnp.diagonal(precision)), mean.shape))


def pca_posterior_gap(model: ProbabilisticPCA):
  """What the best diagonal posterior costs beside the full one, in nats for each x: a scalar.

  KL(q | p(z | x)) = 1/2 (sum log diag(P) - log det P) >= 0 (Hadamard's inequality), the same for
  every x and 0 exactly where the loadings are orthogonal, as at maximum likelihood.
  """
  precision = _pca_precision(model)
  return 0.5 * (jnp.sum(jnp.log(jnp.diagonal(precision))) - jnp.linalg.slogdet(precision)[1])


def pca_elbo(model: ProbabilisticPCA, x, q: Gaussian):
  """The exact ELBO of a linear VAE, [B] nats, for any Gaussian q(z | x); no sampling.

  E_q[log p(x | z)] = log p(x | z = mean of q) - tr(W Cov_q W^T) / (2 sigma^2), less the KL to
  N(0, I) (Lucas et al. 2019, section 4). x: [B, D]. q: [B, d].
  """
  W, noise_variance = model.loadings, model.noise_variance
  x_mean = jnp.matmul(q.mean, W.T, precision='highest') + model.mean
  if isinstance(q, Normal):
    spread = jnp.square(W) * jnp.exp(q.log_var)[:, None]
  else:
    scale = jnp.einsum('di,bij->bdj', W, jnp.tril(q.scale_tril), precision='highest')
    spread = jnp.square(scale)
  log_likelihood = gaussian.log_prob(Normal(x_mean, jnp.log(noise_variance)), x)
  log_likelihood -= 0.5 * gaussian.sum_event(spread) / noise_variance
  return log_likelihood - gaussian.kl_to_standard_normal(q)


def reverse_step_kl(data: Mixture, x_t, log_snr_s, log_snr_t) -> np.ndarray:
  """KL(q(x_s | x_t) | its best Gaussian) in nats, [B]: key idea 1 (lecture section 4), exactly.

  The best Gaussian has the mean and variance of q(x_s | x_t). By quadrature in float64 NumPy,
  whatever JAX's precision: 601 points within 9 standard deviations of each component, an absolute
  error below 1e-13. As the step shrinks it falls like its third power, so that the sum over a
  chain of T steps falls like T^-2.

  data: one-dimensional. x_t: [B]. log_snr_s, log_snr_t: scalars, s < t, log_snr_s may be +inf.
  Raises ValueError for data of more dimensions, and unless log_snr_s > log_snr_t.
  """
  log_weights, means, variances = _reverse_step_1d(data, np.asarray(x_t), log_snr_s, log_snr_t)
  weights = np.exp(log_weights)
  mean = np.sum(weights * means, -1, keepdims=True)
  variance = np.sum(weights * (variances + (means - mean) ** 2), -1, keepdims=True)
  z, density = standard_normal(601)
  x_s = means[..., None] + np.sqrt(variances)[:, None] * z
  log_joint = [
    log_weights[:, k, None, None] + log_normal_density(x_s, means[:, k, None, None], variance_k)
    for k, variance_k in enumerate(variances)
  ]
  log_p = np.logaddexp.reduce(log_joint)
  log_ratio = log_p - log_normal_density(x_s, mean[..., None], variance[..., None])
  return np.sum(weights * (log_ratio @ density), -1)


def expected_reverse_step_kl(data: Mixture, log_snr_s: float, log_snr_t: float) -> float:
  """E[`reverse_step_kl`] over x_t ~ q(x_t), in nats, by quadrature over x_t as well (301 points).

  Arguments and what raises as there.
  """
  weights, means, variances = _one_dimensional(data)
  signal_t, marginal_variance = _marginal_1d(means, variances, log_snr_t)
  z, density = standard_normal(301)
  x_t = signal_t[:, None] + np.sqrt(marginal_variance)[:, None] * z
  kl = reverse_step_kl(data, x_t.reshape(-1), log_snr_s, log_snr_t).reshape(x_t.shape)
  return float(weights @ (kl @ density))


class _Components(NamedTuple):
  """The components of a mixture at x_t, each in the coordinates of its own principal axes."""

  variance: jax.Array  # [K, D], of the data
  axes: jax.Array  # [K, D, D], in columns
  marginal_variance: jax.Array  # [B, K, D], or [K, D] for a scalar log_snr_t: of x_t
  offset: jax.Array  # [B, K, D], x_t - E[x_t | k]
  log_joint: jax.Array  # [B, K], log q(x_t, k)


def _components(data: Mixture, x_t, log_snr_t) -> _Components:
  variance, axes = jnp.linalg.eigh(jnp.asarray(data.covariances))
  log_snr_t = over_event(log_snr_t, x_t[:, None])
  marginal_variance = _marginal_variance(variance, log_snr_t)
  offset = x_t[:, None] - forward_process.signal_scale(log_snr_t) * data.means
  offset = jnp.einsum('kji,bkj->bki', axes, offset, precision='highest')
  log_prob = -0.5 * jnp.sum(
    jnp.square(offset) / marginal_variance + jnp.log(marginal_variance) + gaussian.LOG_2PI, -1
  )
  log_joint = jnp.log(jnp.asarray(data.weights)) + log_prob
  return _Components(variance, axes, marginal_variance, offset, log_joint)


def _principal_axes(data: GaussianData):
  """The variances along the principal axes, and these in columns; None for the coordinate axes."""
  covariance = jnp.asarray(data.covariance)
  if covariance.shape == jnp.shape(data.mean):
    return covariance, None
  return jnp.linalg.eigh(covariance)


def _scale_along(axes, scale, x):
  """x [B, ...] with each principal coordinate multiplied by its scale."""
  if axes is None:
    return scale * x
  coordinates = jnp.matmul(x, axes, precision='highest')
  return jnp.matmul(scale * coordinates, axes.T, precision='highest')


def _from_axes(axes, coordinates):
  """[B, K, D] in the coordinates of each component's axes -> in those of the data."""
  return jnp.einsum('kij,bkj->bki', axes, coordinates, precision='highest')


def _as_gaussian(mean, variance, axes) -> Gaussian:
  if axes is None:
    return Normal(mean, jnp.broadcast_to(jnp.log(variance), mean.shape))
  covariance = jnp.einsum('ij,...j,kj->...ik', axes, variance, axes, precision='highest')
  scale_tril = jnp.linalg.cholesky(covariance)
  return MultivariateNormal(mean, jnp.broadcast_to(scale_tril, mean.shape + mean.shape[-1:]))


def _marginal_variance(variance, log_snr):
  """Along an axis: the variance of x at log_snr, where the data have `variance`."""
  return jax.nn.sigmoid(log_snr) * variance + jax.nn.sigmoid(-log_snr)


def _reverse_gain(variance, s, t):
  """Along an axis: Cov(x_s, x_t) / Var(x_t)."""
  scale_ratio = jnp.exp(0.5 * (jax.nn.log_sigmoid(t) - jax.nn.log_sigmoid(s)))
  return scale_ratio * _marginal_variance(variance, s) / _marginal_variance(variance, t)


def _reverse_variance(variance, s, t):
  """Along an axis: Var(x_s | x_t)."""
  step = jnp.exp(forward_process.transition_log_var(s, t))
  return step * _marginal_variance(variance, s) / _marginal_variance(variance, t)


def _posterior_weight(log_snr_s, log_snr_t):
  """The weight of x_0 in the mean of q(x_s | x_t, x_0)."""
  return -jnp.expm1(log_snr_t - log_snr_s) * forward_process.signal_scale(log_snr_s)


def _pca_precision(model: ProbabilisticPCA):
  W = model.loadings
  identity = jnp.eye(W.shape[1], dtype=W.dtype)
  return jnp.matmul(W.T, W, precision='highest') / model.noise_variance + identity


def _pca_posterior_mean(model: ProbabilisticPCA, precision, x):
  projected = jnp.matmul(x - model.mean, model.loadings, precision='highest')
  return jnp.linalg.solve(precision, projected.T / model.noise_variance).T


def _one_dimensional(data: Mixture):
  """The mixture's weights, means and variances, each [K], in float64 NumPy."""
  weights, means, covariances = (np.asarray(array, np.float64) for array in data)
  if means.shape[1:] != (1,):
    raise ValueError(f'data have {means.shape[1]} dimensions; the quadrature is for one')
  return weights, means[:, 0], covariances[:, 0, 0]


def _log_sigmoid(x):
  return -np.logaddexp(0, -x)


def _marginal_1d(means, variances, log_snr):
  alpha_bar = np.exp(_log_sigmoid(log_snr))
  return np.sqrt(alpha_bar) * means, alpha_bar * variances + np.exp(_log_sigmoid(-log_snr))


def _reverse_step_1d(data: Mixture, x_t, s, t):
  """q(x_s | x_t): log-weights [B, K], means [B, K], variances [K]; `mixture_reverse_step`."""
  if not s > t:
    raise ValueError(f'log_snr_s {s} <= log_snr_t {t}; the step goes from t to the cleaner s')
  weights, means, variances = _one_dimensional(data)
  mean_s, variance_s = _marginal_1d(means, variances, s)
  mean_t, variance_t = _marginal_1d(means, variances, t)
  log_joint = np.log(weights) + log_normal_density(x_t[:, None], mean_t, variance_t)
  scale_ratio = np.exp(0.5 * (_log_sigmoid(t) - _log_sigmoid(s)))
  step = -np.expm1(t - s) * np.exp(_log_sigmoid(-t))
  return (
    log_joint - np.logaddexp.reduce(log_joint, -1, keepdims=True),
    mean_s + scale_ratio * variance_s / variance_t * (x_t[:, None] - mean_t),
    step * variance_s / variance_t,
  )
