"""F9: small steps back are nearly Gaussian (lecture section 4, key idea 1)."""

import itertools

import numpy as np

from experiments.figures import style
from experiments.figures.figure import Run, Study
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
  run = study.run('diffusion')
  bound = [on_schedule(run, T).scores()['nll_bound'] for T in SCHEDULES]
  return {
    'step': STEPS,
    'step_kl': np.array(step_kl),
    'chain_steps': CHAIN_STEPS,
    'chain_kl': np.array(chain_kl),
    'T': np.array(SCHEDULES),
    'nll_bound': np.stack(bound, axis=1),
  }


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
