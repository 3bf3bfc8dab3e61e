"""F9: small steps back are nearly Gaussian (lecture section 4, key idea 1)."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.figures import style
from experiments.figures.figure import Study
from experiments.trained import Run
from vaediff import forward_process, gaussian, schedules
from vaediff.analytic import Mixture, expected_reverse_step_kl

TITLE = 'Small steps back are nearly Gaussian'
CAPTION = (
  'Left, exactly, for a density with two bumps on the line: how far q(x_s | x_t) is from its best '
  'Gaussian, in nats, along the step in log-SNR, and the sum of that over the steps of a chain '
  'from log-SNR 2 to -4. Right: the bound of one trained model on test pictures, evaluated on '
  'schedules of T steps. Means and 95% bands over the seeds.'
)
RUNS = ('diffusion',)
TWO_BUMPS = Mixture(np.array([0.3, 0.7]), np.array([[-1.5], [1.0]]), np.array([[[0.05]], [[0.1]]]))
STEPS = 2.0 ** -np.arange(-1, 8)
START = -0.4
CHAIN = (-4.0, 2.0)
CHAIN_STEPS = 2 ** np.arange(1, 8)
SCHEDULES = (5, 10, 25, 50, 100, 250, 1000)


def compute(study: Study) -> dict[str, np.ndarray]:
  step_kl = [expected_reverse_step_kl(TWO_BUMPS, START + h, START) for h in STEPS]
  chain_kl = [
    sum(
      expected_reverse_step_kl(TWO_BUMPS, s, t)
      for t, s in itertools.pairwise(np.linspace(*CHAIN, num + 1))
    )
    for num in CHAIN_STEPS
  ]
  with jax.enable_x64(True):
    errors = {'marginal_error': _marginal_error(), 'posterior_error': _posterior_error()}
  run = study.run('diffusion')
  bound = [on_schedule(run, T).scores()['nll_bound'] for T in SCHEDULES]
  return errors | {
    'step': STEPS,
    'step_kl': np.array(step_kl),
    'chain_steps': CHAIN_STEPS,
    'chain_kl': np.array(chain_kl),
    'T': np.array(SCHEDULES),
    'nll_bound': np.stack(bound, axis=1),
  }


def _marginal_error() -> np.ndarray:
  """Of q(x_t | x_0): how far mean and variance are from those that single steps make together."""
  log_snr = jnp.array(schedules.cosine(1000), jnp.float64)
  x_0 = mean = jnp.ones(1)
  variance, errors = jnp.zeros(1), []
  for s, t in itertools.pairwise(log_snr):
    gain = forward_process.transition(jnp.ones(1), s, t).mean
    step = forward_process.transition(mean, s, t)
    mean, variance = step.mean, gain**2 * variance + jnp.exp(step.log_var)
    q_t = forward_process.marginal(x_0, t)
    errors.append([jnp.abs(q_t.mean - mean), jnp.abs(jnp.exp(q_t.log_var) - variance)])
  return np.max(np.array(errors))


def _posterior_error() -> np.ndarray:
  """Of the density q(x_s | x_t, x_0): how far it is from Bayes' rule on a grid of x_s."""
  x_s = jnp.linspace(-8, 8, 4001)[:, None]
  errors = []
  for log_snr_s, log_snr_t, x_0, x_t in itertools.product((2.0, 0.5), (0.0, -3.0), (0.7,), (-2, 1)):
    x_0, x_t = jnp.full_like(x_s, x_0), jnp.full_like(x_s, x_t)
    prior = gaussian.log_prob(forward_process.marginal(x_0, log_snr_s), x_s)
    likelihood = gaussian.log_prob(forward_process.transition(x_s, log_snr_s, log_snr_t), x_t)
    joint = np.exp(prior + likelihood)
    by_bayes = joint / np.trapezoid(joint, x_s[:, 0])
    q_s = forward_process.posterior(x_0, x_t, log_snr_s, log_snr_t)
    errors.append(np.abs(np.exp(gaussian.log_prob(q_s, x_s)) - by_bayes).max())
  return np.max(errors)


def on_schedule(run: Run, T: int) -> Run:
  """The run with T levels, of which all are evaluated where it evaluates as many or more."""
  num_times = run.tools.config['evaluation']['num_times']
  return run.changed(
    schedule={'T': T}, evaluation={'num_times': num_times if num_times < T - 1 else 0}
  )


def draw(arrays):
  fig, axes = style.panels(1, 3)
  for ax, x, y, label in (
    (axes[0, 0], 'step', 'step_kl', 'step in log-SNR'),
    (axes[0, 1], 'chain_steps', 'chain_kl', 'steps of the chain'),
  ):
    style.plot(ax, arrays[x], arrays[y], 0)
    ax.set(xscale='log', yscale='log', xlabel=label, ylabel='KL to the best Gaussian, nats')
  ax = axes[0, 2]
  style.line(ax, arrays['T'], arrays['nll_bound'], 0)
  ax.set(xscale='log', yscale='log', xlabel='T', ylabel='negative bound, nats')
  return fig
