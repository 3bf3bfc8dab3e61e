"""F10: the bound term by term, and the variance of the reverse step (section 4)."""

import numpy as np

from experiments import measures
from experiments.figures import style
from experiments.figures.figure import Study

TITLE = 'The bound term by term, and the reverse variance'
CAPTION = (
  'What each level t contributes to the bound on test pictures, with the smaller and the larger '
  'fixed variance of Ho et al. (2020), one that is learned between them, and the optimal one for '
  'the trained mean; the sum of all terms; and the Fréchet distance of samples drawn in few '
  'ancestral steps. Means and 95% bands over the seeds.'
)
RUNS = ('classifier', 'diffusion', 'diffusion_interpolated')
VARIANCES = {
  'fixed_small': 'fixed, smaller',
  'fixed_large': 'fixed, larger',
  'interpolated': 'learned',
  'optimal': 'optimal',
}
NUM_STEPS = (5, 10, 25, 100)
# Training pictures that the optimal variance is fitted to.
NUM_FITTED = 500
# Terms are averaged over so many neighbouring levels.
NUM_BINS = 25


def compute(study: Study) -> dict[str, np.ndarray]:
  arrays = {'steps': np.array(NUM_STEPS), 'frechet_floor': study.frechet_floor}
  for variance in VARIANCES:
    run = study.run('diffusion_interpolated' if variance == 'interpolated' else 'diffusion')
    run = run.changed(method={'variance': variance}, fit={'num_examples': NUM_FITTED})
    tables = measures.time_terms(run.tools, run.variables)
    terms = np.array([table['bound_term']['value'] for table in tables])
    # The first, the decoder's, stands by itself.
    bins = np.array_split(np.arange(1, terms.shape[1]), NUM_BINS)
    arrays['log_snr'] = _log_snr(run)[[0, *(1 + int(part.mean()) for part in bins)]]
    arrays[f'terms_{variance}'] = np.stack(
      [terms[:, 0], *(terms[:, part].mean(axis=1) for part in bins)], axis=1
    )
    arrays[f'nll_bound_{variance}'] = run.scores()['nll_bound']
    arrays[f'frechet_{variance}'] = np.stack(
      [
        study.frechet_distances(run.changed(sampler={'num_steps': num}).draw()) for num in NUM_STEPS
      ],
      axis=1,
    )
  return arrays


def _log_snr(run) -> np.ndarray:
  """At the levels t = 1..T of the config's schedule."""
  schedule = run.tools.config['schedule']
  return np.linspace(schedule['first'], schedule['last'], schedule['T'])


def draw(arrays):
  fig, axes = style.panels(1, 3)
  for i, (variance, label) in enumerate(VARIANCES.items()):
    style.line(axes[0, 0], arrays['log_snr'], arrays[f'terms_{variance}'], i, label, marker=False)
    style.line(axes[0, 2], arrays['steps'], arrays[f'frechet_{variance}'], i, label)
  axes[0, 0].set(yscale='log', xlabel='log-SNR', ylabel='term of the bound, nats')
  axes[0, 0].invert_xaxis()
  axes[0, 0].legend()
  bounds = np.stack([arrays[f'nll_bound_{variance}'] for variance in VARIANCES], axis=1)
  style.points(axes[0, 1], list(VARIANCES.values()), bounds)
  axes[0, 1].set(ylabel='negative bound, nats')
  style.floor(axes[0, 2], arrays['frechet_floor'])
  axes[0, 2].set(xscale='log', yscale='log', xlabel='ancestral steps', ylabel='Fréchet distance')
  return fig
