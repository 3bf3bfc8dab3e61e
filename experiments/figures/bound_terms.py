"""F10: the bound term by term, and the variance of the reverse step (section 4)."""

import numpy as np

from experiments import measures
from experiments.figures import style
from experiments.figures.figure import Study

TITLE = 'The bound term by term, and the reverse variance'
CAPTION = (
  'What each level t contributes to the bound on test pictures with the smaller fixed variance of '
  'Ho et al. (2020), and by how much that is more than with the larger, with one that a network of '
  'its own has learned between them, and with the optimal one for the trained mean; the sum of all '
  'terms; and the Fréchet distance of samples drawn in few ancestral steps. Means and 95% bands '
  'over the seeds.'
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
  arrays = {'steps': np.array(NUM_STEPS), 'frechet_floor': study.frechet_floor(study.num_chains)}
  for variance in VARIANCES:
    run = study.run('diffusion_interpolated' if variance == 'interpolated' else 'diffusion')
    run = run.changed(method={'variance': variance}, fit={'num_examples': NUM_FITTED})
    tables = measures.time_terms(run.tools, run.variables)
    terms = np.array([table['bound_term']['value'] for table in tables])
    # The first, the decoder's, stands by itself.
    bins = np.array_split(np.arange(1, terms.shape[1]), NUM_BINS)
    log_snr = np.array(tables[0]['log_snr'])
    arrays['log_snr'] = np.array([log_snr[0], *(log_snr[part].mean() for part in bins)])
    arrays[f'terms_{variance}'] = np.stack(
      [terms[:, 0], *(terms[:, part].mean(axis=1) for part in bins)], axis=1
    )
    scores = run.scores()
    arrays[f'nll_bound_{variance}'], arrays['prior_kl'] = scores['nll_bound'], scores['prior_kl']
    arrays[f'frechet_{variance}'] = np.stack(
      [
        study.frechet_distances(run.changed(sampler={'num_steps': num}).draw(study.num_chains))
        for num in NUM_STEPS
      ],
      axis=1,
    )
  return arrays


def draw(arrays):
  fig, axes = style.panels(2, 2)
  fixed, *others = VARIANCES
  terms = arrays[f'terms_{fixed}']
  style.line(axes[0, 0], arrays['log_snr'], terms, 0, VARIANCES[fixed], marker=False)
  for i, variance in enumerate(others, start=1):
    saved = terms - arrays[f'terms_{variance}']
    style.line(axes[0, 1], arrays['log_snr'], saved, i, VARIANCES[variance], marker=False)
  axes[0, 0].set(yscale='log', xlabel='log-SNR', ylabel='term of the bound, nats')
  axes[0, 1].set(xlabel='log-SNR', ylabel='saved of each term, nats')
  axes[0, 1].set_yscale('symlog', linthresh=1e-3)
  for ax in axes[0]:
    ax.invert_xaxis()
    ax.legend()
  bounds = np.stack([arrays[f'nll_bound_{variance}'] for variance in VARIANCES], axis=1)
  style.points(axes[1, 0], list(VARIANCES.values()), bounds)
  axes[1, 0].set(ylabel='negative bound, nats')
  for i, (variance, label) in enumerate(VARIANCES.items()):
    style.line(axes[1, 1], arrays['steps'], arrays[f'frechet_{variance}'], i, label)
  style.floor(axes[1, 1], arrays['frechet_floor'])
  axes[1, 1].set(xscale='log', yscale='log', xlabel='ancestral steps', ylabel='Fréchet distance')
  axes[1, 1].legend()
  return fig
