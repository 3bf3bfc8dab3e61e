"""Exact answers beside the project's own, for data whose distribution is known, as Markdown tables.

python -m experiments.exact [--quick]

A row of the first table holds where `ours` is within three standard errors of `exact`, or within
the tolerance: what is left of an optimisation, a discretisation or rounding. The second table
compares the time samplers of diffusion, where nothing is exact. Every number follows from fixed
seeds. --quick takes fewer draws and steps, and leaves digits out. Exit status: 0 where every row
holds, 1 where one does not, 2 for wrong input.
"""

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from vaediff import (
  analytic,
  bounds,
  data,
  forward_process,
  gaussian,
  latents,
  likelihoods,
  parallel,
  probability_flow,
  reporting,
  reverse_process,
  sampling,
  schedules,
  training,
)
from vaediff.analytic import GaussianData, Mixture, ProbabilisticPCA
from vaediff.datasets import synthetic
from vaediff.errors import InputError
from vaediff.methods.base import Batch, Method, Variables
from vaediff.methods.diffusion import diffusion
from vaediff.methods.vae import vae
from vaediff.networks import Network, mlp, with_shared_channels

POSTERIORS = {'diagonal': latents.DIAGONAL, 'full': latents.FULL}

CORRELATED = GaussianData(np.array([0.4, -0.8]), np.array([[0.9, 0.5], [0.5, 0.6]]))
INDEPENDENT = GaussianData(np.array([0.4, -0.8]), np.array([0.9, 0.2]))
THREE_BUMPS = Mixture(
  np.array([0.3, 0.5, 0.2]),
  np.array([[1.0, 0.5], [-1.0, 0.2], [0.3, -1.5]]),
  np.array([[[0.2, 0.1], [0.1, 0.3]], [[0.4, 0.0], [0.0, 0.1]], [[0.1, -0.05], [-0.05, 0.2]]]),
)
TWO_BUMPS = Mixture(
  np.array([0.35, 0.65]), np.array([[-0.9], [0.7]]), np.array([[[0.04]], [[0.09]]])
)
# So many levels that the data of `diffusion`, which lie on levels, are as good as continuous.
NUM_LEVELS = 2**16


class Row(NamedTuple):
  """A quantity as it should be and as it is. Units are nats where the quantity names no other.

  stderr: of ours; 0 where nothing is drawn. tolerance: on the difference; 0 where draws alone make
  one.
  """

  quantity: str
  exact: float
  ours: float
  stderr: float = 0.0
  tolerance: float = 0.0

  @property
  def difference(self) -> float:
    return self.ours - self.exact

  @property
  def holds(self) -> bool:
    return abs(self.difference) <= max(3 * self.stderr, self.tolerance)


class Variance(NamedTuple):
  """The variance of an estimate with a time sampler, each number over that with uniform times."""

  times: str
  loss: float
  loss_stderr: float
  gradient: float
  gradient_stderr: float


def main(arguments: Sequence[str]) -> int:
  """Prints the tables; returns the exit status."""
  try:
    for argument in arguments:
      if argument != '--quick':
        raise InputError(
          f'unknown argument {argument!r}; usage: python -m experiments.exact [--quick]'
        )
    quick = bool(arguments)
    _print_cells('quantity', 'exact', 'ours', 'difference', 'standard error', 'tolerance', 'holds')
    _print_cells(*['---'] * 7)
    verdicts = []
    for row in rows(quick):
      verdicts.append(row.holds)
      numbers = (row.exact, row.ours, row.difference, row.stderr, row.tolerance)
      _print_cells(row.quantity, *map(_as_text, numbers), 'yes' if row.holds else 'NO')
    print(f'\n{sum(verdicts)} of {len(verdicts)} rows hold.\n')
    _print_cells('times', 'variance of the loss', 'variance of the gradient')
    _print_cells(*['---'] * 3)
    for ratio in time_sampler_variances(200 if quick else 2000):
      _print_cells(
        ratio.times,
        f'{ratio.loss:.3f} +- {ratio.loss_stderr:.3f}',
        f'{ratio.gradient:.3f} +- {ratio.gradient_stderr:.3f}',
      )
  except InputError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  return 0 if all(verdicts) else 1


def rows(quick: bool) -> Iterator[Row]:
  """The rows of the first table."""
  x = synthetic.gaussian(0, 1000, pca_model().mean, _pca_covariance(pca_model()))
  yield from linear_vae('Gaussian data', x[..., None], 3, 1000 if quick else 2000, 0.05)
  if not quick:
    yield from linear_vae('digits', digits(), 10, 4000, 0.01)
  yield from fixed_decoder(1500 if quick else 2000)
  yield from vae_bounds(16 if quick else 100, 1000 if quick else 5000, 100 if quick else 500)
  yield from gaussian_bound(2000 if quick else 20_000)
  yield from fixed_variance_bound(*((200, (64, 512)) if quick else (1000, (256, 2048))))
  yield from mixture_bound(2000 if quick else 20_000)
  yield from reverse_variance(2000 if quick else 10_000)
  yield from sampler_moments(2000 if quick else 20_000)
  yield from sampler_orders()
  yield from flow_likelihood(100 if quick else 1000)
  yield from elbo_gradient(2000 if quick else 20_000)
  yield from small_steps()


# Probabilistic PCA, the linear VAE


def linear_vae(name: str, x, latent_dim: int, num_steps: int, learning_rate: float) -> list[Row]:
  """The ELBO of a trained linear VAE against the largest log-likelihood of probabilistic PCA.

  x: [N, ..., 1], real numbers. Encoder and decoder are affine, the noise is one learned number. At
  its maximum the ELBO is the log-likelihood, with a diagonal posterior too, for then the loadings
  are orthogonal (Lucas et al. 2019). The tolerance is 0.5%.
  """
  flat = x.reshape(len(x), -1)
  exact = _in_float64(lambda x: _largest_log_likelihood(x, latent_dim), flat)
  found = []
  for posterior, latent in POSTERIORS.items():
    method, decoder = make_linear_vae(x.shape[1:], latent_dim, latent)
    variables = train(method, x, num_steps, learning_rate)
    q = method.code.posterior(variables, x)
    elbo = analytic.pca_elbo(as_pca(decoder, variables.params['decoder'], latent_dim), flat, q)
    quantity = f'{name}: ELBO of a linear VAE, {posterior} posterior'
    found.append(Row(quantity, exact, float(jnp.mean(elbo)), tolerance=0.005 * abs(exact)))
  return found


def fixed_decoder(num_steps: int) -> list[Row]:
  """What a diagonal posterior costs where the decoder's columns are correlated, by training."""
  model = pca_model()
  x = synthetic.gaussian(1, 1000, model.mean, _pca_covariance(model))
  elbos = {}
  for posterior, latent in POSTERIORS.items():
    encoder = mlp.encoder((), latent.num_outputs(3))
    method = vae(encoder, pca_decoder(model), likelihoods.normal(), latent, 3, num_levels=None)
    variables = train(method, x[..., None], num_steps, 0.1)
    q = method.code.posterior(variables, x[..., None])
    elbos[posterior] = float(jnp.mean(analytic.pca_elbo(model, x, q)))
  log_likelihood = float(jnp.mean(gaussian.log_prob(analytic.pca_marginal(model), x)))
  gap = float(analytic.pca_posterior_gap(model))
  return [
    Row('fixed decoder: ELBO, full posterior', log_likelihood, elbos['full'], tolerance=0.01),
    Row(
      'fixed decoder: ELBO, full less diagonal posterior',
      gap,
      elbos['full'] - elbos['diagonal'],
      tolerance=0.01,
    ),
  ]


def vae_bounds(num_examples: int, num_draws: int, num_temperatures: int) -> list[Row]:
  """The bounds that the method `vae` evaluates, with the best diagonal posterior as its encoder.

  The importance-weighted bound is of num_examples examples, the two noisier ones of more.
  """
  model, variables = pca_model(), Variables({'encoder': (), 'decoder': ()})
  gap = float(analytic.pca_posterior_gap(model))

  def encode(params, x):
    del params
    q = analytic.pca_diagonal_posterior(model, x[..., 0])
    return jnp.concatenate([q.mean, q.log_var], axis=-1)

  def row(quantity, num_examples, below=0.0, tolerance=0.0, **options):
    x = synthetic.gaussian(2, num_examples, model.mean, _pca_covariance(model))
    method = vae(
      Network(lambda key, x: (), encode),
      pca_decoder(model),
      likelihoods.normal(),
      latents.DIAGONAL,
      3,
      num_levels=None,
      **options,
    )
    bound = jax.jit(method.log_likelihood_bound)
    elbo = bound(variables, _keys(num_examples, seed=1), _batch(x[..., None]))['elbo']
    log_likelihood = gaussian.log_prob(analytic.pca_marginal(model), x)
    mean, stderr = _mean(elbo - log_likelihood)
    exact = float(jnp.mean(log_likelihood))
    return Row(f'probabilistic PCA: {quantity}', exact - below, exact + mean, stderr, tolerance)

  return [
    row('ELBO of the best diagonal posterior', 1000 * num_examples, below=gap),
    row(
      f'importance-weighted bound, k = {num_draws}',
      num_examples,
      tolerance=0.01,
      bound='importance_weighted',
      num_bound_draws=num_draws,
    ),
    row(
      f'annealed importance sampling, {num_temperatures} temperatures, 10 chains',
      10 * num_examples,
      tolerance=0.02,
      bound='annealed',
      num_bound_draws=10,
      num_temperatures=num_temperatures,
    ),
  ]


def elbo_gradient(num_draws: int) -> list[Row]:
  """The reparameterised gradient of the loss of `vae`, averaged, against that of the exact ELBO."""
  x = synthetic.gaussian(3, 8, *CORRELATED)[..., None]
  found = []
  for posterior, latent in POSTERIORS.items():
    method, decoder = make_linear_vae(x.shape[1:], 2, latent)
    # A third of those at initialisation: variances that are affine in x then vary by less.
    params, unravel = ravel_pytree(method.init(jax.random.key(0), _batch(x)).params)
    params /= 3

    def loss(params, keys, method=method, unravel=unravel):
      terms = method.loss(Variables(unravel(params)), keys, _batch(x), 0)
      return jnp.mean(terms['loss'])

    def exact_loss(params, method=method, decoder=decoder, unravel=unravel):
      variables = Variables(unravel(params))
      q = method.code.posterior(variables, x)
      model = as_pca(decoder, variables.params['decoder'], 2)
      return -jnp.mean(analytic.pca_elbo(model, x[..., 0], q))

    keys = jax.vmap(lambda key: jax.random.split(key, len(x)))(_keys(num_draws))
    draws = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(params, keys)
    exact = jax.jit(jax.grad(exact_loss))(params)
    error = jnp.linalg.norm(jnp.mean(draws, axis=0) - exact)
    stderr = jnp.linalg.norm(jnp.std(draws, axis=0)) / np.sqrt(num_draws)
    size = float(jnp.linalg.norm(exact))
    quantity = f'error of the mean gradient of the ELBO, of norm {size:.3g}, {posterior} posterior'
    found.append(Row(quantity, 0.0, float(error), float(stderr)))
  return found


def pca_model() -> ProbabilisticPCA:
  """Ten dimensions, three factors, whose loadings are correlated."""
  generator = np.random.default_rng(0)
  loadings = 0.5 + 0.4 * generator.normal(size=(10, 3))
  return ProbabilisticPCA(*map(jnp.float32, (loadings, 0.3 * generator.normal(size=10), 0.4)))


def pca_decoder(model: ProbabilisticPCA) -> Network:
  """p(x | z) of the model as a network with nothing to learn: z [B, d] -> [B, D, 2]."""

  def apply(params, z):
    del params
    mean = z @ model.loadings.T + model.mean
    return jnp.stack([mean, jnp.full_like(mean, 0.5 * jnp.log(model.noise_variance))], axis=-1)

  return Network(lambda key, z: (), apply)


def make_linear_vae(event_shape, latent_dim: int, latent: latents.Latent) -> tuple[Method, Network]:
  """The method `vae` with affine networks and one learned scale, and its decoder."""
  encoder = mlp.encoder((), latent.num_outputs(latent_dim))
  decoder = with_shared_channels(mlp.decoder((), event_shape), 1)
  method = vae(encoder, decoder, likelihoods.normal(), latent, latent_dim, num_levels=None)
  return method, decoder


def as_pca(decoder: Network, params, latent_dim: int) -> ProbabilisticPCA:
  """The model that an affine decoder is, read off at 0 and along the axes of z."""
  z = jnp.concatenate([jnp.zeros((1, latent_dim)), jnp.eye(latent_dim)])
  mean, log_scale = jnp.split(decoder.apply(params, z), 2, axis=-1)
  mean = mean.reshape(latent_dim + 1, -1)
  return ProbabilisticPCA((mean[1:] - mean[0]).T, mean[0], jnp.exp(2 * log_scale.ravel()[0]))


def train(method: Method, x, num_steps: int, learning_rate: float) -> Variables:
  """The variables after training on x as every experiment does: Adam, batches of 250, one device.

  The rate decays to zero along a cosine; what is returned is the parameters' moving average.
  """
  devices, key = jax.devices()[:1], jax.random.key(0)
  batch_size = 250
  split = data.Split('train', x, np.full(len(x), -1, np.int32))
  optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))
  state = training.init(key, method, optimizer, _batch(x[:1]))
  state = parallel.replicate(state, devices)
  dispatch = training.make_dispatch(method, optimizer, lambda keys, x: x, batch_size, 0.99, devices)
  dispatches = training.loop(
    dispatch,
    state,
    key,
    split,
    first_step=0,
    num_steps=num_steps,
    steps_per_dispatch=500,
    batch_size=batch_size,
    seed=0,
    devices=devices,
  )
  *_, last = dispatches
  state = parallel.unreplicate(last.state)
  if state.step < num_steps:
    raise FloatingPointError(f'the loss or its gradient is not finite in step {state.step + 1}')
  return training.averaged(state)


def digits() -> np.ndarray:
  """The training pictures of digits as real numbers on [-1, 1], [1500, 8, 8, 1]."""
  return np.asarray(likelihoods.center(data.load('digits').train.x, data.NUM_LEVELS['digits']))


# The bound of diffusion


def gaussian_bound(num_examples: int) -> list[Row]:
  """The bound with the optimal reverse model, against its expectation and the data's entropy.

  It exceeds the negative log-likelihood by KL(q(x_T) | N(0, I)), however many steps there are.
  """
  x_0, found = synthetic.gaussian(0, num_examples, *CORRELATED), []
  nll = -gaussian.log_prob(analytic.gaussian_marginal(CORRELATED, jnp.inf), x_0)
  for num_steps in (2, 8, 64):
    log_snr = schedules.linear_log_snr(num_steps, 8.0, -1.0)
    negative_elbo = _negative_bound(
      x_0, log_snr, analytic.gaussian_reverse_model(CORRELATED, log_snr)
    )
    prior_gap = gaussian.kl_to_standard_normal(analytic.gaussian_marginal(CORRELATED, log_snr[-1]))
    quantity = f'Gaussian data, optimal reverse model, T = {num_steps}: negative ELBO'
    found += [
      Row(quantity, _expected_bound(CORRELATED, log_snr), *_mean(negative_elbo)),
      Row(f'{quantity} less NLL', float(prior_gap[0]), *_mean(negative_elbo - nll)),
    ]
  return found


def fixed_variance_bound(num_examples: int, steps: tuple[int, int]) -> list[Row]:
  """With the optimal mean and the smaller of Ho et al.'s variances the gap falls like 1 / T.

  steps: the two T between which the exponent is measured, which at T is -1 - O(1 / T).
  Ours is what the bound loses to that of the optimal reverse model with the same draws: of that
  one's gap to the entropy, the prior's KL, the schedule leaves 1e-9 nats.
  """
  x_0, entropy = synthetic.gaussian(0, num_examples, *CORRELATED), _in_float64(_entropy, CORRELATED)

  def schedule(num_steps):
    """A table and the smaller variances, with 1 / SNR at t = 1: written out, in float64."""
    log_snr = schedules.linear_log_snr(num_steps, 13.3, -25.0)
    s, t = log_snr[1:-1], log_snr[2:]
    small = np.log(-np.expm1(t - s)) - np.logaddexp(0, s)
    return log_snr, np.append(-log_snr[1], small)

  def exact_gap(num_steps):
    return _expected_bound(CORRELATED, *schedule(num_steps)) - entropy

  def exponent(first, last, steps):
    return np.log(last / first) / np.log((steps[1] - 1) / (steps[0] - 1))

  found, gaps = [], []
  for num_steps in steps:
    log_snr, _ = schedule(num_steps)
    small = np.append(-log_snr[1], reverse_process.fixed_log_var(log_snr, 'fixed_small')[1:])
    model = analytic.denoising_reverse_model(_denoiser(CORRELATED), log_snr, small)
    optimal = analytic.gaussian_reverse_model(CORRELATED, log_snr)
    gap = _mean(_negative_bound(x_0, log_snr, model) - _negative_bound(x_0, log_snr, optimal))
    quantity = f'Gaussian data, fixed variance, T = {num_steps}: negative ELBO less entropy'
    found.append(Row(quantity, exact_gap(num_steps), *gap))
    gaps.append(gap)
  (first, first_stderr), (last, last_stderr) = gaps
  stderr = np.hypot(first_stderr / first, last_stderr / last) / np.log(
    (steps[1] - 1) / (steps[0] - 1)
  )
  ours = exponent(first, last, steps)
  quantity = f'exponent of this gap in T, {steps[0]} to {steps[1]}'
  found.append(Row(quantity, -1.0, ours, stderr, tolerance=6 / steps[0]))
  ours = exponent(exact_gap(2048), exact_gap(16384), (2048, 16384))
  return [*found, Row('of its expectation, 2048 to 16384', -1.0, ours, tolerance=0.01)]


def mixture_bound(num_examples: int) -> list[Row]:
  """The bound with the exact denoiser of a mixture, against integrals on a grid.

  Its steps are not Gaussian, and so it exceeds the negative log-likelihood; less so with the
  optimal variances (Analytic-DPM).
  """
  x_0 = synthetic.gaussian_mixture(0, num_examples, *THREE_BUMPS)
  nll = -analytic.mixture_log_prob(THREE_BUMPS, x_0, jnp.inf)
  log_snr = schedules.linear_log_snr(8, 6.0, -5.0)
  s, t = log_snr[:-1], log_snr[1:]
  with jax.enable_x64(True):
    posterior_variance, expected_bound, entropy = _mixture_integrals(log_snr)
    optimal = np.log(analytic.optimal_reverse_variance(s, t, posterior_variance))
    log_vars = {'fixed': np.asarray(reverse_process.fixed_log_var(log_snr, 'fixed_large'))}
    log_vars['optimal'] = optimal
    exact = {name: float(expected_bound(v)) - entropy for name, v in log_vars.items()}

  def denoiser(x_t, log_snr_t):
    return analytic.mixture_denoiser(THREE_BUMPS, x_t, log_snr_t)

  ours = {}
  for name, log_var in log_vars.items():
    model = analytic.denoising_reverse_model(denoiser, log_snr, log_var)
    ours[name] = _negative_bound(x_0, log_snr, model) - nll
  rows = [
    Row(f'mixture, {name} variance, T = 8: negative ELBO less NLL', exact[name], *_mean(gap))
    for name, gap in ours.items()
  ]
  closed = exact['fixed'] - exact['optimal']
  quantity = 'mixture: part of the gap that the optimal variance closes'
  return [*rows, Row(quantity, closed, *_mean(ours['fixed'] - ours['optimal']))]


def reverse_variance(num_examples: int) -> list[Row]:
  """The variance that `diffusion` fits to its errors, with an exact denoiser, and its calibration.

  Calibration: E|x_{t-1} - mean|^2 / (D sigma_t^2), on other examples.
  """
  log_snr = schedules.linear_log_snr(16, 9.0, -5.0)
  T, small_data = len(log_snr) - 1, _small_data()
  network = Network(
    lambda key, x_t, log_snr_t, label: (),
    lambda params, x_t, log_snr_t, label: analytic.gaussian_denoiser(small_data, x_t, log_snr_t),
  )
  method = diffusion(
    network, log_snr, (2,), NUM_LEVELS, prediction='x_0', variance='optimal', clip_x_0=False
  )
  terms = jax.jit(method.time_terms)

  def at_each_time(variables, seed):
    x = _on_levels(synthetic.gaussian(seed, num_examples, *small_data))
    return terms(variables, _keys(num_examples, seed), _batch(x))

  errors = at_each_time(Variables({'denoiser': ()}), seed=0)
  fitted = method.fit(jax.tree.map(np.asarray, errors))
  calibration = at_each_time(Variables({'denoiser': ()}, (), fitted), seed=1)['calibration']
  variance = np.exp(reverse_process.optimal_log_var(jnp.float32(log_snr), fitted['x_0_error']))

  def exact_variance(*arguments):
    return _in_float64(analytic.optimal_reverse_variance, *arguments)

  found = []
  for t in (1, 6, 11, T):
    s, at_t = float(log_snr[t - 1]), float(log_snr[t])
    posterior = _in_float64(_mean_posterior_variance, small_data, at_t)
    exact = exact_variance(s, at_t, posterior)
    # The column of t: every example has had every level, in order.
    _, error_stderr = _mean(errors['x_0_error'][:, t - 1])
    # The fitted variance is affine in the error.
    slope = exact_variance(s, at_t, 1.0) - exact_variance(s, at_t, 0.0)
    stderr = slope * error_stderr
    ratio, ratio_stderr = _mean(calibration[:, t - 1])
    found += [
      Row(f'fitted reverse variance, t = {t} of {T}', exact, float(variance[t - 1]), stderr),
      Row(f'its calibration, t = {t}', 1.0, ratio, np.hypot(ratio_stderr, stderr / exact)),
    ]
  return found


def flow_likelihood(num_examples: int) -> list[Row]:
  """log p(x) by the probability-flow ODE, per dimension, of ten-dimensional Gaussian data."""
  model = pca_model()
  ten_dimensional = GaussianData(np.asarray(model.mean), np.asarray(_pca_covariance(model)))
  first, last, D = 8.0, -12.0, 10
  x = synthetic.gaussian(0, num_examples, *ten_dimensional)
  x = gaussian.sample(jax.random.key(0), forward_process.marginal(x, first))
  exact = gaussian.log_prob(analytic.gaussian_marginal(ten_dimensional, first), x) / D
  found = []
  for divergence, options in (('exact', {}), ('hutchinson', {'num_probes': 10})):
    log_likelihood = jax.jit(
      lambda keys, divergence=divergence, options=options: probability_flow.log_likelihood(
        keys, x, _denoiser(ten_dimensional), first, last, 48, divergence, **options
      )
    )
    error = log_likelihood(_keys(num_examples)) / D - exact
    mean, stderr = _mean(error)
    mean_exact = float(jnp.mean(exact))
    quantity = f'probability flow, {divergence} divergence: log-likelihood per dimension'
    if divergence == 'exact':
      worst = float(jnp.max(jnp.abs(error)))
      found.append(Row(quantity, mean_exact, mean_exact + mean, tolerance=1e-3))
      found.append(Row('its largest error over the examples', 0.0, worst, tolerance=1e-3))
    else:
      found.append(Row(quantity, mean_exact, mean_exact + mean, stderr, tolerance=1e-3))
  return found


# Samplers


def sampler_moments(num_examples: int) -> list[Row]:
  """Mean and variance of the sum of the coordinates of samples, with the exact denoiser."""

  def table(num_steps):
    return schedules.linear_log_snr(num_steps, 10.0, -12.0)

  def ancestral(keys):
    reverse_step = analytic.gaussian_reverse_model(INDEPENDENT, table(50))
    return sampling.ancestral(keys, (2,), reverse_step, 50)

  def solver(solve, num_steps, **options):
    return lambda keys: solve(keys, (2,), _denoiser(INDEPENDENT), table(num_steps), **options)

  # Steps enough for a bias below one standard error; the optimal reverse step has none.
  samplers = {
    'ancestral': ancestral,
    'DDIM, eta = 1': solver(sampling.ddim, 1000, eta=1.0),
    'DDIM': solver(sampling.ddim, 800),
    'DPM-Solver++(2M)': solver(sampling.dpm_solver_pp_2m, 100),
    'DPM-Solver++(2M), eta = 1': solver(sampling.dpm_solver_pp_2m, 100, eta=1.0),
    'Heun': solver(sampling.heun, 100),
  }
  found = []
  for seed, (name, sampler) in enumerate(samplers.items()):
    samples = jax.jit(sampler)(_keys(num_examples, seed))
    total = np.asarray(jnp.sum(samples, axis=-1), np.float64)
    squared = (total - total.mean()) ** 2
    mean, variance = INDEPENDENT.mean.sum(), INDEPENDENT.covariance.sum()
    found += [
      Row(f'samples by {name}: mean', mean, *_mean(total)),
      Row(f'samples by {name}: variance', variance, *_mean(squared)),
    ]
  return found


def sampler_orders() -> list[Row]:
  """The order of convergence of the solvers to the exact probability flow, up to t = 1."""
  num_steps, found = np.array([32, 90, 256]), []
  for name, order in (('ddim', 1), ('heun', 2), ('dpm_solver_pp_2m', 2)):

    def error(correlated, x_T, table, solver=sampling.SOLVERS[name]):
      arguments = _keys(64), (2,), _denoiser(correlated), table
      _, states = solver(*arguments, x_T=x_T, trajectory=True)
      exact = analytic.gaussian_probability_flow(correlated, x_T, table[-1], table[1])
      return jnp.max(jnp.abs(states[-2] - exact))

    x_T = np.random.default_rng(0).normal(size=(64, 2))
    errors = [
      _in_float64(error, CORRELATED, x_T, schedules.linear_log_snr(num, 6.0, -4.0))
      for num in num_steps
    ]
    exponent = -np.polyfit(np.log(num_steps - 1), np.log(errors), 1)[0]
    found.append(Row(f'order of convergence of {name}', float(order), exponent, tolerance=0.1))
  return found


# Key idea 1


def small_steps() -> list[Row]:
  """How the distance of the true reverse step from its best Gaussian falls with the step."""
  t, end = -0.4, 1.2
  steps = 2.0 ** -np.arange(4, 9)
  kl = [analytic.expected_reverse_step_kl(TWO_BUMPS, t + h, t) for h in steps]
  exponent = np.polyfit(np.log(steps), np.log(kl), 1)[0]
  chains = [
    sum(
      analytic.expected_reverse_step_kl(TWO_BUMPS, b, a)
      for a, b in itertools.pairwise(np.linspace(t, end, T + 1))
    )
    for T in (16, 32)
  ]
  return [
    Row('exponent of the KL to the best Gaussian in the step', 3.0, exponent, tolerance=0.05),
    Row(
      'exponent of its sum over a chain in T', -2.0, np.log2(chains[1] / chains[0]), tolerance=0.1
    ),
  ]


# How the time of each example is drawn


def time_sampler_variances(num_steps: int) -> list[Variance]:
  """The variance of loss and gradient of the bound, over batches of 64 in `diffusion`.

  The denoiser is the exact one of Gaussian data, scaled and shifted by its four parameters, which
  stay as they are. The gradient's variance is summed over them. The first 100 steps are left out:
  importance sampling begins as uniform.
  """
  small_data, warm_up, batch_size = _small_data(), 100, 64
  log_snr = schedules.linear_log_snr(32, 9.0, -5.0)

  def apply(params, x_t, log_snr_t, label):
    del label
    x_0 = analytic.gaussian_denoiser(small_data, x_t, log_snr_t)
    return params['scale'] * x_0 + params['shift']

  network = Network(
    lambda key, *inputs: {'scale': jnp.full(2, 1.1), 'shift': jnp.full(2, 0.01)}, apply
  )

  def estimates(times):
    """Loss and gradient of each step, [num_steps, 1] and [num_steps, 4]."""
    method = diffusion(
      network,
      log_snr,
      (2,),
      NUM_LEVELS,
      prediction='x_0',
      variance='fixed_large',
      loss='bound',
      times=times,
    )
    variables = method.init(jax.random.key(0), _batch(jnp.zeros((batch_size, 2), jnp.int32)))

    def step(carry, key):
      x_key, loss_key = jax.random.split(key)
      q = analytic.gaussian_marginal(small_data, jnp.full(batch_size, jnp.inf))
      batch = _batch(_on_levels(gaussian.sample(x_key, q)))

      def mean_loss(params):
        keys = jax.random.split(loss_key, batch_size)
        terms = method.loss(Variables(params, carry), keys, batch, 0)
        return jnp.mean(terms['loss']), terms

      (loss, terms), gradient = jax.value_and_grad(mean_loss, has_aux=True)(variables.params)
      if method.update_carry is not None:
        carry = method.update_carry(carry, terms)
      return carry, (loss[None], ravel_pytree(gradient)[0])

    keys = _keys(warm_up + num_steps)
    _, steps = jax.jit(lambda carry: jax.lax.scan(step, carry, keys))(variables.carry)
    return [np.asarray(estimate[warm_up:], np.float64) for estimate in steps]

  def variance(draws):
    """The variance, and the relative standard error of it."""
    value, stderr = _mean(np.sum((draws - draws.mean(0)) ** 2, axis=-1))
    return value, stderr / value

  uniform = [variance(draws) for draws in estimates('uniform')]
  found = [Variance('uniform', 1.0, 0.0, 1.0, 0.0)]
  for times in ('antithetic', 'importance'):
    numbers = []
    for draws, (base, base_stderr) in zip(estimates(times), uniform, strict=True):
      value, stderr = variance(draws)
      numbers += [value / base, value / base * np.hypot(stderr, base_stderr)]
    found.append(Variance(times, *numbers))
  return found


def _keys(num: int, seed: int = 0):
  return jax.random.split(jax.random.key(seed), num)


def _batch(x) -> Batch:
  return Batch(x, np.full(len(x), -1, np.int32), np.arange(len(x), dtype=np.int32))


def _mean(draws) -> tuple[float, float]:
  """The mean and its standard error."""
  draws = np.asarray(draws, np.float64)
  return float(draws.mean()), float(draws.std(ddof=1) / np.sqrt(len(draws)))


def _in_float64(function: Callable, *arguments) -> float:
  """function(*arguments), a scalar, in double precision; the project computes in float32."""
  with jax.enable_x64(True):
    arguments = jax.tree.map(lambda array: jnp.asarray(array, jnp.float64), arguments)
    return float(jax.jit(function)(*arguments))


def _largest_log_likelihood(x, latent_dim: int):
  """Of probabilistic PCA, on average over x [N, D]."""
  model = analytic.pca_maximum_likelihood(x.mean(0), jnp.cov(x.T, bias=True), latent_dim)
  return jnp.mean(gaussian.log_prob(analytic.pca_marginal(model), x))


def _pca_covariance(model: ProbabilisticPCA):
  return model.loadings @ model.loadings.T + model.noise_variance * jnp.eye(len(model.mean))


def _denoiser(gaussian_data: GaussianData) -> Callable:
  return lambda x_t, log_snr_t: analytic.gaussian_denoiser(gaussian_data, x_t, log_snr_t)


def _entropy(gaussian_data: GaussianData):
  return gaussian.entropy(analytic.gaussian_marginal(gaussian_data, jnp.inf))[0]


def _expected_bound(gaussian_data: GaussianData, log_snr, log_var=None) -> float:
  """What the negative bound is on average."""
  return _in_float64(
    lambda *arguments: -analytic.gaussian_expected_bound(*arguments)['elbo'],
    gaussian_data,
    log_snr,
    log_var,
  )


def _negative_bound(x_0, log_snr, reverse_step: Callable):
  """-elbo [N] of `bounds.diffusion_bound`, of continuous data and with every step. Jitted."""

  @jax.jit
  def bound(keys):
    return bounds.diffusion_bound(
      keys,
      jnp.asarray(x_0),
      log_snr,
      reverse_step,
      lambda x_1, reverse: gaussian.log_prob(reverse, x_0),
      len(log_snr) - 2,
    )['elbo']

  return -bound(_keys(len(x_0), seed=len(log_snr)))


def _mixture_integrals(log_snr):
  """On a grid: E[tr Cov(x_0 | x_t)] / 2 at t = 1..T, the expected negative bound, the entropy.

  The second is a function of the log-variances [T]; the prior's part of it knows only the first two
  moments of the data. All for THREE_BUMPS.
  """
  axis = np.linspace(-6, 6, 301)
  x = jnp.asarray(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2))
  cell = (axis[1] - axis[0]) ** 2

  @jax.jit
  def posterior_variance(log_snr_t):
    step = analytic.mixture_reverse_step(THREE_BUMPS, x, jnp.inf, log_snr_t)
    _, covariance = analytic.mixture_moments(step)
    density = jnp.exp(analytic.mixture_log_prob(THREE_BUMPS, x, log_snr_t))
    return jnp.sum(density * jnp.trace(covariance, axis1=1, axis2=2)) / 2 * cell

  variances = np.array([posterior_variance(log_snr_t) for log_snr_t in log_snr[1:]])
  log_density = analytic.mixture_log_prob(THREE_BUMPS, x, jnp.inf)
  entropy = -float(jnp.sum(jnp.exp(log_density) * log_density)) * cell
  mean, covariance = (
    moment[0] for moment in analytic.mixture_moments(Mixture(*(a[None] for a in THREE_BUMPS)))
  )
  same_moments = GaussianData(mean, covariance)
  prior_kl = analytic.gaussian_expected_bound(same_moments, log_snr)['prior_kl']

  def expected_bound(log_var):
    kl = analytic.expected_kl(variances[1:], 2, log_snr[1:-1], log_snr[2:], log_var[1:])
    decoder = gaussian.LOG_2PI + log_var[0] + variances[0] * np.exp(-log_var[0])
    return prior_kl + jnp.sum(kl) + decoder

  return variances, expected_bound, entropy


def _small_data() -> GaussianData:
  """CORRELATED, so much smaller that it lies within [-1, 1]."""
  return GaussianData(0.15 * CORRELATED.mean, 0.15**2 * CORRELATED.covariance)


def _on_levels(x):
  """Real numbers on [-1, 1] to the nearest of NUM_LEVELS levels, int32."""
  return jnp.round((jnp.asarray(x) + 1) * ((NUM_LEVELS - 1) / 2)).astype(jnp.int32)


def _mean_posterior_variance(gaussian_data: GaussianData, log_snr_t):
  """E[tr Cov(x_0 | x_t)] / D."""
  q = analytic.gaussian_reverse_step(gaussian_data, gaussian_data.mean[None], jnp.inf, log_snr_t)
  return jnp.mean(jnp.sum(jnp.square(q.scale_tril[0]), axis=-1))


def _as_text(number: float) -> str:
  return f'{number:.5g}'


def _print_cells(*cells: str) -> None:
  print(reporting.table_row(cells), end='', flush=True)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
