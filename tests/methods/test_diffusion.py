"""What is special to diffusion: its variances, its losses, its parameterisations."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from vaediff import bounds, forward_process, gaussian, likelihoods, reverse_process, schedules
from vaediff.forward_process import over_event
from vaediff.methods.base import Batch, Variables
from vaediff.methods.diffusion import diffusion
from vaediff.networks import Network

SHAPE, K, T = (2, 2, 1), 17, 50
LOG_SNR = schedules.cosine(T)


def constant_x_0(value: float, prediction: str) -> Network:
  """A network whose output stands for the same x_0 at every x_t."""

  def apply(params, x_t, log_snr_t, label):
    del params, label
    x_0 = jnp.full_like(x_t, value)
    return {
      'eps': lambda: forward_process.eps_from_x_0(x_t, x_0, log_snr_t),
      'v': lambda: forward_process.v_from_x_0(x_t, x_0, log_snr_t),
      'x_0': lambda: x_0,
    }[prediction]()

  return Network(init=lambda key, *inputs: {}, apply=apply)


def batch(level: int, n: int = 64) -> Batch:
  x = np.full((n, *SHAPE), level, np.uint8)
  return Batch(x, np.full(n, -1, np.int32), np.arange(n, dtype=np.int32))


def with_variance(network: Network, log_var_output) -> Network:
  """The network with a second half of the channels, of one number, for the variance."""

  def apply(params, x_t, log_snr_t, label):
    output = network.apply(params, x_t, log_snr_t, label)
    return jnp.concatenate([output, jnp.full_like(output, log_var_output)], axis=-1)

  return Network(network.init, apply)


def shrinking(gain: float) -> Network:
  """Predicts x_0 as gain x_t: an error that depends on x_t and x_0."""
  return Network(lambda key, *inputs: {}, lambda params, x_t, log_snr_t, label: gain * x_t)


def of_label(*values: float) -> Network:
  """Predicts x_0 as values[label]; the last one is that without a label."""

  def apply(params, x_t, log_snr_t, label):
    return jnp.broadcast_to(over_event(jnp.float32(values)[label], x_t), x_t.shape)

  return Network(lambda key, *inputs: {}, apply)


VARIABLES = Variables({'denoiser': {}})
KEYS = jax.random.split(jax.random.key(0), 64)


@pytest.mark.parametrize('prediction', ['eps', 'x_0', 'v'])
def test_a_network_that_knows_x_0_has_no_kl(prediction):
  """With the right x_0 and the posterior's variance every KL term is 0, in any parameterisation."""
  method = diffusion(
    constant_x_0(0.5, prediction), LOG_SNR, SHAPE, K, prediction, 'fixed_small', clip_x_0=False
  )
  terms = jax.jit(method.log_likelihood_bound)(VARIABLES, KEYS, batch(12))
  assert likelihoods.center(12, K) == 0.5
  np.testing.assert_allclose(terms['diffusion_kl'], 0, atol=1e-4)


def test_a_wrong_x_0_costs_its_distance_in_signal_to_noise():
  """sum_t KL = 1/2 (SNR(1) - SNR(T)) |x_0 - x_0_hat|^2 (Kingma et al. 2021, eq. 13)."""
  method = diffusion(constant_x_0(0.25, 'x_0'), LOG_SNR, SHAPE, K, 'x_0', 'fixed_small')
  terms = jax.jit(method.log_likelihood_bound)(VARIABLES, KEYS, batch(12))
  snr = np.exp(LOG_SNR)
  exact = 0.5 * (snr[1] - snr[T]) * 4 * 0.25**2
  np.testing.assert_allclose(terms['diffusion_kl'], exact, rtol=1e-4)


@pytest.mark.parametrize('prediction', ['eps', 'x_0', 'v'])
def test_bound_loss_is_an_unbiased_estimate_of_the_negative_bound(prediction):
  """16,384 draws within 5 standard errors: false alarm rate 6e-7 each."""
  method = diffusion(
    constant_x_0(0.25, prediction),
    LOG_SNR,
    SHAPE,
    K,
    prediction,
    'fixed_large',
    'bound',
    clip_x_0=False,
  )
  n = 2**14
  keys = jax.random.split(jax.random.key(1), n)
  loss = np.asarray(jax.jit(method.loss)(VARIABLES, keys, batch(12, n), 0)['loss'])
  exact = -np.mean(jax.jit(method.log_likelihood_bound)(VARIABLES, KEYS, batch(12))['elbo'])
  assert abs(loss.mean() - exact) < 5 * loss.std() / np.sqrt(n) + 1e-3 * exact


@pytest.mark.parametrize('prediction', ['eps', 'x_0', 'v'])
def test_simple_loss_is_the_squared_error_per_dimension(prediction):
  """A constant output c against x_0 = 0.5: (c - x_0)^2; against eps: 1 + c^2 on average; against
  v = a eps - s x_0: E[a^2 + (c + s x_0)^2] over t. Within 5 standard errors: false alarm rate 1e-6.
  """
  n, c, x_0 = 2**14, 0.25, 0.5
  network = Network(lambda key, *inputs: {}, lambda params, x_t, log_snr, label: 0 * x_t + c)
  method = diffusion(network, LOG_SNR, SHAPE, K, prediction, loss='simple')
  keys = jax.random.split(jax.random.key(2), n)
  loss = np.asarray(jax.jit(method.loss)(VARIABLES, keys, batch(12, n), 0)['loss'])
  a2 = 1 / (1 + np.exp(-LOG_SNR[1:]))
  exact = {
    'x_0': (c - x_0) ** 2,
    'eps': 1 + c**2,
    'v': np.mean(a2 + (c + np.sqrt(1 - a2) * x_0) ** 2),
  }[prediction]
  assert abs(loss.mean() - exact) < 5 * loss.std() / np.sqrt(n) + 1e-6


def test_clipping_changes_nothing_inside_and_helps_outside():
  network = Network(lambda key, *inputs: {}, lambda x_0, x_t, log_snr_t, label: x_0 + 0 * x_t)
  elbo = {}
  for clip in (False, True):
    method = diffusion(network, LOG_SNR, SHAPE, K, 'x_0', 'fixed_small', clip_x_0=clip)
    bound = jax.jit(
      lambda x_0, m=method: m.log_likelihood_bound(Variables({'denoiser': x_0}), KEYS, batch(14))[
        'elbo'
      ]
    )
    elbo[clip] = {x_0: bound(x_0) for x_0 in (0.5, 1.5)}
  np.testing.assert_array_equal(elbo[True][0.5], elbo[False][0.5])
  assert np.all(elbo[True][1.5] > elbo[False][1.5])


def test_samples_of_a_network_that_knows_x_0_are_that_level():
  method = diffusion(constant_x_0(0.5, 'v'), LOG_SNR, SHAPE, K, 'v', 'fixed_small')
  np.testing.assert_array_equal(jax.jit(method.sample)(VARIABLES, KEYS, batch(0).label), 12)


@pytest.mark.parametrize(
  ('sampler', 'options'),
  [
    ('ancestral', {'noise_scale': 0.5}),
    ('ddim', {'eta': 0.5}),
    ('dpm_solver_pp_2m', {}),
    ('dpm_solver_pp_2m', {'eta': 1.0}),
    ('heun', {}),
  ],
)
def test_every_sampler_in_few_steps(sampler, options):
  method = diffusion(
    constant_x_0(0.5, 'x_0'),
    LOG_SNR,
    SHAPE,
    K,
    'x_0',
    sampler=sampler,
    num_sampling_steps=5,
    sampler_options=options,
  )
  np.testing.assert_array_equal(jax.jit(method.sample)(VARIABLES, KEYS, batch(0).label), 12)


def test_nearest_level_decoder_needs_no_network():
  table = schedules.linear_log_snr(T)
  method = diffusion(constant_x_0(-1.0, 'x_0'), table, SHAPE, K, 'x_0', decoder='nearest_level')
  terms = jax.jit(method.log_likelihood_bound)(VARIABLES, KEYS, batch(12))
  np.testing.assert_allclose(terms['reconstruction'], 0, atol=1e-6)


def test_unknown_choices_are_refused():
  for name in ('prediction', 'variance', 'loss', 'decoder', 'sampler'):
    with pytest.raises(ValueError, match=f"{name} is 'nonsense'; it is one of"):
      diffusion(constant_x_0(0.0, 'x_0'), LOG_SNR, SHAPE, K, **{name: 'nonsense'})


def test_the_prior_term_is_in_the_bound():
  table = schedules.linear_log_snr(T, first=5.0, last=1.0)  # a schedule that leaves much of x_0
  method = diffusion(constant_x_0(0.5, 'x_0'), table, SHAPE, K, 'x_0', 'fixed_small')
  terms = jax.jit(method.log_likelihood_bound)(VARIABLES, KEYS, batch(12))
  x_0 = jnp.full((1, *SHAPE), 0.5)
  exact = gaussian.kl_to_standard_normal(forward_process.marginal(x_0, table[-1]))[0]
  assert exact > 1
  np.testing.assert_allclose(terms['prior_kl'], exact, rtol=1e-5)
  np.testing.assert_allclose(bounds.diffusion_prior_kl(x_0, table), exact, rtol=1e-6)


def keys(n: int, seed: int):
  return jax.random.split(jax.random.key(seed), n)


def levels(n: int, seed: int = 0) -> Batch:
  """Examples of all levels."""
  x = np.random.default_rng(seed).integers(0, K, (n, *SHAPE)).astype(np.uint8)
  return Batch(x, np.full(n, -1, np.int32), np.arange(n, dtype=np.int32))


def assert_mean(values, exact, rtol=0.0):
  """Within 5 standard errors: false alarm rate 6e-7 for each number. values: [N, ...]."""
  values = np.asarray(values, np.float64)
  error = values.std(0) / np.sqrt(len(values))
  assert np.all(np.abs(values.mean(0) - exact) < 5 * error + rtol * np.abs(exact))


def test_hybrid_trains_the_mean_by_the_simple_loss_and_the_variance_by_the_bound():
  """Nichol & Dhariwal 2021, section 3.1: the bound's gradient is stopped through the mean."""

  def apply(params, x_t, log_snr_t, label):
    mean, log_var = params
    return jnp.concatenate([mean * x_t, log_var + 0 * x_t], axis=-1)

  weight, network = 0.02, Network(lambda key, *inputs: {}, apply)
  options = {'variance': 'interpolated', 'prediction': 'x_0'}
  method = diffusion(network, LOG_SNR, SHAPE, K, loss='hybrid', hybrid_weight=weight, **options)

  def total(params):
    terms = method.loss(Variables({'denoiser': params}), KEYS, levels(64), 0)
    terms = {name: jnp.sum(term) for name, term in terms.items()}
    return terms, terms

  gradient, terms = jax.jit(jax.jacrev(total, has_aux=True))((0.6, 0.3))
  assert gradient['simple'][0] != 0
  assert gradient['simple'][1] == 0
  assert gradient['bound'][0] == 0
  assert gradient['bound'][1] != 0
  np.testing.assert_allclose(gradient['loss'][0], gradient['simple'][0], rtol=1e-5)
  in_bits = weight * gradient['bound'][1] / (4 * np.log(2))
  np.testing.assert_allclose(gradient['loss'][1], in_bits, rtol=1e-5)
  # The value of the bound is the true one: only its gradient is stopped.
  plain = diffusion(network, LOG_SNR, SHAPE, K, loss='bound', **options)
  plain_terms = jax.jit(plain.loss)(Variables({'denoiser': (0.6, 0.3)}), KEYS, levels(64), 0)
  prior_kl = bounds.diffusion_prior_kl(likelihoods.center(levels(64).x, K), LOG_SNR)
  np.testing.assert_allclose(terms['bound'], jnp.sum(plain_terms['loss'] - prior_kl), rtol=1e-5)


def test_a_learned_variance_at_the_smaller_choice_has_no_kl():
  network = with_variance(constant_x_0(0.5, 'v'), -1.0)
  method = diffusion(network, LOG_SNR, SHAPE, K, 'v', 'interpolated')
  terms = jax.jit(method.log_likelihood_bound)(VARIABLES, KEYS, batch(12))
  np.testing.assert_allclose(terms['diffusion_kl'], 0, atol=1e-4)
  fixed = diffusion(constant_x_0(0.25, 'x_0'), LOG_SNR, SHAPE, K, 'x_0', 'fixed_large')
  free = diffusion(with_variance(constant_x_0(0.25, 'x_0'), 0.0), LOG_SNR, SHAPE, K, 'x_0', 'free')
  a, b = (
    jax.jit(method.log_likelihood_bound)(VARIABLES, KEYS, batch(12)) for method in (fixed, free)
  )
  for name, term in a.items():
    np.testing.assert_allclose(term, b[name], rtol=1e-5)


def fitted(method, x: Batch, seed: int) -> Variables:
  statistics = jax.jit(method.statistics)(VARIABLES, keys(len(x.x), seed), x)
  return VARIABLES._replace(fitted=method.fit(jax.tree.map(np.asarray, statistics)))


def test_the_optimal_variance_gives_a_better_bound_than_the_two_fixed_ones():
  """On the examples that it is fitted to, in mean, by more than the noise of either."""
  x, kl = levels(256), {}
  for variance in ('optimal', 'fixed_small', 'fixed_large'):
    method = diffusion(shrinking(0.5), LOG_SNR, SHAPE, K, 'x_0', variance)
    variables = fitted(method, x, 1) if variance == 'optimal' else VARIABLES
    kl[variance] = np.asarray(
      jax.jit(method.log_likelihood_bound)(variables, keys(256, 2), x)['diffusion_kl']
    )
  for fixed in ('fixed_small', 'fixed_large'):
    gain = kl[fixed] - kl['optimal']
    assert gain.mean() > 5 * gain.std() / np.sqrt(256)


def test_before_the_fit_the_optimal_variance_is_the_smaller_one():
  optimal, small = (
    diffusion(shrinking(0.5), LOG_SNR, SHAPE, K, 'x_0', variance, 'bound').loss(
      VARIABLES, KEYS, levels(64), 0
    )['loss']
    for variance in ('optimal', 'fixed_small')
  )
  np.testing.assert_array_equal(optimal, small)


def test_the_optimal_variance_is_calibrated_at_every_time():
  """E|x_{t-1} - mean|^2 / (variance D) = 1. On other noise than that of the fit: 10 errors."""
  method = diffusion(shrinking(0.5), LOG_SNR, SHAPE, K, 'x_0', 'optimal', clip_x_0=False)
  x = levels(2048)
  variables = fitted(method, x, 1)
  terms = jax.jit(method.time_terms)(variables, keys(2048, 2), x)
  order = np.argsort(terms['t'], axis=1)
  np.testing.assert_array_equal(
    np.take_along_axis(terms['t'], order, 1), [np.arange(1, T + 1)] * 2048
  )
  calibration = np.take_along_axis(np.asarray(terms['calibration'], np.float64), order, 1)
  error = calibration.std(0) / np.sqrt(2048)
  assert np.all(np.abs(calibration.mean(0) - 1) < 10 * error)
  # A wrong variance is seen: the smaller one is too sure of itself.
  small = diffusion(shrinking(0.5), LOG_SNR, SHAPE, K, 'x_0', 'fixed_small', clip_x_0=False)
  assert np.mean(jax.jit(small.time_terms)(VARIABLES, keys(64, 2), levels(64))['calibration']) > 1.5


def test_time_terms_sum_to_the_bound():
  """Of all t, or T times the mean of those drawn; with the prior's KL, in expectation."""
  n, table = 4096, schedules.linear_log_snr(T, 6.0, -4.0)
  options = {'decoder': 'nearest_level', 'prediction': 'x_0', 'clip_x_0': False}
  exact = diffusion(shrinking(0.5), table, SHAPE, K, **options)
  bound = jax.jit(exact.log_likelihood_bound)(VARIABLES, keys(n, 2), levels(n))
  few = diffusion(shrinking(0.5), table, SHAPE, K, num_times=7, **options)
  for method, num in ((exact, T), (few, 8)):
    terms = jax.jit(method.time_terms)(VARIABLES, keys(n, 1), levels(n))
    assert terms['t'].shape == (n, num)
    assert all(len(set(t)) == num for t in np.asarray(terms['t'][:20]))
    assert set(np.unique(terms['t'])) == set(range(1, T + 1))
    total = T * np.mean(terms['bound_term'], axis=1) + bound['prior_kl']
    assert_mean(total + bound['elbo'], 0.0)


def test_time_terms_know_the_error_of_the_prediction():
  """E|x_0 - gain x_t|^2 / D = (1 - gain signal)^2 x_0^2 + gain^2 noise^2 at each t."""
  n, gain = 4096, 0.5
  method = diffusion(shrinking(gain), LOG_SNR, SHAPE, K, 'x_0', clip_x_0=False)
  terms = jax.jit(method.time_terms)(VARIABLES, keys(n, 1), batch(12, n))
  order = np.argsort(terms['t'], axis=1)
  alpha_bar = 1 / (1 + np.exp(-LOG_SNR[1:]))
  exact = (1 - gain * np.sqrt(alpha_bar)) ** 2 * 0.5**2 + gain**2 * (1 - alpha_bar)
  assert_mean(np.take_along_axis(np.asarray(terms['x_0_error']), order, 1), exact)


@pytest.mark.parametrize(
  ('times', 'table'),
  [('uniform', LOG_SNR), ('antithetic', schedules.linear_log_snr(T, 4.0, -6.0))],
  ids=['uniform', 'antithetic'],
)
def test_the_continuous_loss_is_an_unbiased_estimate_of_the_continuous_bound(times, table):
  """Of its diffusion and prior terms: 1/2 (SNR(1) - SNR(T)) |x_0 - x_0_hat|^2 + prior KL."""
  # In few levels, between which it is linear; past a log-SNR of 4.5 the terms have heavy tails.
  n, first = 2**14, np.argmax(table < 4.5)
  table = np.concatenate([[np.inf], table[first::8]])
  method = diffusion(
    constant_x_0(0.25, 'x_0'),
    table,
    SHAPE,
    K,
    'x_0',
    loss='continuous',
    bound='continuous',
    times=times,
    num_times=20,
  )

  # The offset of the antithetic sampler is random: a new one for each group of four examples.
  def group(key):
    variables = VARIABLES._replace(carry=method.init(key, batch(12, 4)).carry)
    return jnp.mean(method.loss(variables, jax.random.split(key, 4), batch(12, 4), 0)['loss'])

  loss = jax.jit(jax.vmap(group))(keys(n // 4, 1))
  terms = jax.jit(method.log_likelihood_bound)(VARIABLES, keys(1024, 2), batch(12, 1024))
  snr = np.exp(table)
  exact = 0.5 * (snr[1] - snr[-1]) * 4 * 0.25**2 + terms['prior_kl'][0]
  assert_mean(loss, exact)
  assert_mean(terms['prior_kl'] + terms['diffusion_kl'], exact)


def of_frequencies(frequencies) -> Network:
  """The log-frequencies of the levels in every dimension, whatever x_t: a model of its own."""

  def apply(params, x_t, log_snr_t, label):
    del params, log_snr_t, label
    return jnp.broadcast_to(jnp.log(jnp.float32(frequencies)), (*x_t.shape[:-1], K))

  return Network(lambda key, *inputs: {}, apply)


@pytest.mark.parametrize('first', [2.0, 7.0])
def test_the_bound_of_the_right_prior_over_levels_is_the_likelihood(first):
  """In continuous time, for pixels that are independent, wherever the decoder takes over.

  The expected bound is then minus the entropy of the data but for the prior's mismatch, which at a
  log-SNR of -9 is below 1e-5; 5 standard errors, a false alarm in 2 million.
  """
  n, frequencies = 2**13, np.arange(1, K + 1) / np.sum(np.arange(1, K + 1))
  x = np.random.default_rng(0).choice(K, (n, *SHAPE), p=frequencies).astype(np.uint8)
  method = diffusion(
    of_frequencies(frequencies),
    schedules.linear_log_snr(20, first, -9.0),
    SHAPE,
    K,
    'levels',
    loss='continuous',
    bound='continuous',
    num_times=10,
    decoder='levels',
  )
  terms = jax.jit(method.log_likelihood_bound)(
    VARIABLES, keys(n, 1), Batch(x, np.full(n, -1, np.int32), np.arange(n, dtype=np.int32))
  )
  # Of each example, so that what the choice of the examples adds to the error cancels.
  exact = np.log(frequencies)[x].sum((1, 2, 3))
  assert_mean(terms['elbo'] - exact, 0.0)


def test_samples_of_levels_have_their_frequencies():
  """Independent pixels by 50 ancestral steps: each share within 5 standard errors, plus 0.01 for
  the size of the steps."""
  n, frequencies = 2**12, np.arange(1, K + 1) / np.sum(np.arange(1, K + 1))
  table = schedules.linear_log_snr(50, 9.0, -7.0)
  method = diffusion(of_frequencies(frequencies), table, SHAPE, K, 'levels', 'fixed_small')
  x = jax.jit(method.sample)(VARIABLES, keys(n, 3), np.full(n, -1, np.int32))
  shares = np.bincount(np.asarray(x).reshape(-1), minlength=K) / x.size
  error = np.sqrt(frequencies * (1 - frequencies) / x.size)
  assert (np.abs(shares - frequencies) < 5 * error + 0.01).all()


def test_the_decoder_of_levels_needs_their_prediction():
  with pytest.raises(ValueError, match="decoder 'levels' is made of the prediction 'levels'"):
    diffusion(constant_x_0(0.0, 'x_0'), LOG_SNR, SHAPE, K, 'x_0', decoder='levels')


def test_samples_know_their_label():
  network = of_label(0.5, -0.25, 0.0)
  label = jnp.array([0, 1, -1, 1])
  for sampler in ('ancestral', 'ddim'):
    method = diffusion(network, LOG_SNR, SHAPE, K, 'x_0', sampler=sampler)
    x = jax.jit(method.sample)(VARIABLES, KEYS[:4], label)
    np.testing.assert_array_equal(x[:, 0, 0, 0], [12, 6, 8, 6])


@pytest.mark.parametrize(
  ('w', 'variance', 'sampler'),
  [
    (0.0, 'fixed_small', 'ddim'),
    (0.5, 'interpolated', 'ancestral'),
    (3.0, 'interpolated', 'ddim'),
  ],
)
def test_guidance_extrapolates_the_prediction_away_from_the_unconditional_one(w, variance, sampler):
  """(1 + w) conditional - w unconditional (Ho & Salimans 2022, eq. 6); w = 0 is conditional."""
  network = of_label(0.5, -0.25, 0.125)
  if variance == 'interpolated':
    network = with_variance(network, 0.0)
  method = diffusion(network, LOG_SNR, SHAPE, K, 'x_0', variance, sampler=sampler, guidance=w)
  chain = jax.jit(method.trajectory)(VARIABLES, KEYS[:3], jnp.array([0, 1, -1]))
  exact = np.array([0.5 + w * 0.375, -0.25 - w * 0.375, 0.125])
  np.testing.assert_allclose(chain['x'][:, -1, 0, 0, 0], np.clip(exact, -1, 1), atol=1e-5)


def test_hidden_labels_do_not_reach_the_loss():
  network, by_dropout = of_label(0.5, -0.25, 0.0), {}
  for dropout in (0.0, 0.5, 1.0):
    method = diffusion(network, LOG_SNR, SHAPE, K, 'x_0', label_dropout=dropout)
    loss = [
      np.asarray(
        jax.jit(method.loss)(VARIABLES, KEYS, batch(12)._replace(label=jnp.full(64, k)), 0)['loss']
      )
      for k in (0, 1)
    ]
    # |x_0 - values[label]|^2, x_0 = 0.5, of which 0 and -1 are labels 0 and none.
    hidden = loss[0] == 0.25
    np.testing.assert_array_equal(hidden, loss[1] == 0.25)
    np.testing.assert_allclose(loss[0][~hidden], 0)
    np.testing.assert_allclose(loss[1][~hidden], 0.75**2)
    by_dropout[dropout] = hidden.mean()
  assert (by_dropout[0.0], by_dropout[1.0]) == (0, 1)
  assert abs(by_dropout[0.5] - 0.5) < 5 * 0.5 / 8


@pytest.mark.parametrize(('sampler', 'num_steps'), [('ancestral', None), ('heun', 5), ('ddim', 1)])
def test_the_chain_ends_in_the_sample(sampler, num_steps):
  method = diffusion(
    shrinking(0.9), LOG_SNR, SHAPE, K, 'x_0', sampler=sampler, num_sampling_steps=num_steps
  )
  label = batch(0).label
  chain = jax.jit(method.trajectory)(VARIABLES, KEYS, label)
  num_steps = num_steps or T
  assert chain['x'].shape == (64, num_steps + 1, *SHAPE)
  sample = jax.jit(method.sample)(VARIABLES, KEYS, label)
  np.testing.assert_array_equal(likelihoods.quantize(chain['x'][:, -1], K), sample)
  assert len(np.unique(sample)) > 1
  log_snr = np.asarray(chain['log_snr'][5])
  assert (log_snr[0], log_snr[-1]) == (np.float32(LOG_SNR[T]), np.inf)
  assert np.all(np.diff(log_snr) > 0)
  # It begins in N(0, I): 5 standard errors.
  assert abs(np.mean(chain['x'][:, 0])) < 5 / np.sqrt(64 * 4)


def learned_bound(network, **options):
  """A learned schedule of two levels of data, -1 and 1, whose decoder's term is nothing."""
  schedule = schedules.learned(8, first=3.0, last=-3.0, num_units=3)
  method = diffusion(
    network, schedule, SHAPE, 2, 'x_0', 'fixed_small', 'bound', decoder='nearest_level', **options
  )
  params = schedule.init()
  return method, {**params, 'weights': params['weights'] + 4}  # a curve, not a line


def test_the_learned_schedule_follows_the_gradient_of_the_bound():
  """-elbo = 1/2 (SNR(1) - SNR(T)) |x_0 - x_0_hat|^2 + prior KL: its ends alone matter.

  The mean gradient of 2^14 draws, for each of the schedule's 12 numbers within 5 standard errors of
  central differences of that formula: false alarm rate 7e-6.
  """
  method, params = learned_bound(constant_x_0(0.5, 'x_0'))
  n, x = 2**14, batch(1, 1)

  def loss(flat, key):
    variables = Variables({'denoiser': {}, 'schedule': unravel(flat)})
    return method.loss(variables, key[None], x, 0)['loss'][0]

  def expected(flat):
    log_snr = np.asarray(schedules.learned(8, num_units=3).table(unravel(flat)), np.float64)
    snr, alpha_bar = np.exp(log_snr), 1 / (1 + np.exp(-log_snr))
    prior_kl = 0.5 * 4 * (alpha_bar[-1] - np.log1p(-alpha_bar[-1]) - alpha_bar[-1])
    return 0.5 * (snr[1] - snr[-1]) * 4 * 0.5**2 + prior_kl

  flat, unravel = jax.flatten_util.ravel_pytree(params)
  gradient = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(flat, keys(n, 1))
  assert np.all(np.isfinite(gradient))
  step = 0.05 * np.eye(len(flat), dtype=np.float32)
  exact = [(expected(flat + h) - expected(flat - h)) / 0.1 for h in step]
  assert np.count_nonzero(np.abs(exact) > 1e-3) == 2
  assert_mean(gradient, np.array(exact), rtol=2e-3)


def test_the_learned_schedule_is_differentiated_through_everything():
  """The gradient for fixed noise against central differences of the same: nothing is stopped."""
  method, params = learned_bound(shrinking(0.7))
  flat, unravel = jax.flatten_util.ravel_pytree(params)
  x = levels(64)._replace(x=levels(64).x % 2)

  @jax.jit
  @jax.value_and_grad
  def loss(flat):
    variables = Variables({'denoiser': {}, 'schedule': unravel(flat)})
    return jnp.mean(method.loss(variables, KEYS, x, 0)['loss'])

  step = 0.02 * np.eye(len(flat), dtype=np.float32)
  differences = np.array([(loss(flat + h)[0] - loss(flat - h)[0]) / 0.04 for h in step])
  assert np.count_nonzero(differences) == len(flat)
  np.testing.assert_allclose(loss(flat)[1], differences, rtol=0.02, atol=2e-3)


@pytest.mark.parametrize('variance', reverse_process.LEARNED_VARIANCES)
def test_learned_variances_stay_finite_at_every_one_of_4000_steps(variance):
  """Loss and gradient, per example, in float32: antithetic times have every t in 4,096."""
  n, T = 4096, 4000

  def apply(params, x_t, log_snr_t, label):
    mean, log_var = params
    return jnp.concatenate([mean + 0 * x_t, log_var + 0 * x_t], axis=-1)

  network = Network(lambda key, *inputs: {}, apply)

  @jax.jit
  def gradient_and_terms(params, table):
    method = diffusion(network, table, SHAPE, K, 'eps', variance, 'bound', times='antithetic')

    def loss(params):
      terms = method.loss(
        Variables({'denoiser': params}, jnp.float32(0.0)), keys(n, 1), levels(n), 0
      )
      return terms['loss'], terms

    return jax.jacfwd(loss, has_aux=True)(params)

  for table in (schedules.linear(T), schedules.cosine(T), schedules.linear_log_snr(T)):
    for extreme in {'free': (1e3, -1e3), 'interpolated': (10.0, -10.0)}[variance]:
      gradient, terms = gradient_and_terms((0.1, extreme), jnp.float32(table))
      assert len(np.unique(np.floor(terms['time'] * T))) == T
      assert np.all(np.isfinite(terms['loss']))
      assert all(np.all(np.isfinite(leaf)) for leaf in gradient)
