"""F6: letting reconstruction dominate early (lecture section 3.4)."""

import numpy as np

from experiments.figures import style
from experiments.figures.figure import Study

TITLE = 'Warm-up, cycles and free bits'
CAPTION = (
  'The KL of test pictures, their reconstruction, and active units along training: with the plain '
  'ELBO, with a weight on the KL that grows from 0 to 1 over the first part of training '
  '(warm-up), that does so again and again (cyclical), and with 0.25 nats of KL free for each '
  'dimension. Right: the bound that comes out. Means and 95% bands over the seeds.'
)
RUNS = ('vae', 'vae_warmup', 'vae_cyclical', 'vae_free_bits')
LABELS = ('plain', 'warm-up', 'cyclical', 'free bits')
CURVES = {
  'kl': 'KL, nats',
  'reconstruction': 'reconstruction, nats',
  'active_units': 'active units',
}


def compute(study: Study) -> dict[str, np.ndarray]:
  arrays = {}
  for name in RUNS:
    run = study.run(name)
    arrays |= {f'{key}_{name}': values for key, values in run.curves(list(CURVES)).items()}
    arrays[f'nll_bound_{name}'] = run.metric('nll_bound')
  return arrays


def draw(arrays):
  fig, axes = style.panels(1, 4, width=2.8)
  for ax, (measure, label) in zip(axes[0], CURVES.items(), strict=False):
    for i, (name, kind) in enumerate(zip(RUNS, LABELS, strict=True)):
      style.line(ax, arrays[f'step_{name}'], arrays[f'{measure}_{name}'], i, kind)
    ax.set(xlabel='training step', ylabel=label)
  axes[0, 0].legend()
  bounds = np.stack([arrays[f'nll_bound_{name}'] for name in RUNS], axis=1)
  style.points(axes[0, 3], LABELS, bounds)
  axes[0, 3].set(ylabel='negative ELBO, nats')
  return fig
