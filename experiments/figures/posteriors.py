"""F8: code distributions of the VAE: full covariance, and the uniform prior (section 3.1)."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.figures import style
from experiments.figures.figure import Study
from vaediff import analytic

TITLE = 'Which distribution for the code'
CAPTION = (
  'Posteriors with a diagonal and a full covariance, beside the prior N(0, I), and boxes beside '
  'the uniform prior on the unit cube, all trained with a warm-up of the KL: the bound on test '
  'pictures, its two parts, and the Fréchet distance of samples. Right, where the truth is known '
  '(probabilistic PCA): the ELBO that a diagonal covariance loses, along the angle between two '
  'dimensions of the code in the data; with a full covariance nothing is lost. Means and 95% '
  'intervals over the seeds.'
)
LABELS = {'vae_warmup': 'diagonal', 'vae_full': 'full', 'vae_box': 'box'}
RUNS = ('classifier', *LABELS)
MEASURES = {
  'nll_bound': 'negative ELBO, nats',
  'reconstruction': 'reconstruction, nats',
  'kl': 'KL, nats',
}
ANGLES = np.linspace(5, 90, 18)


def compute(study: Study) -> dict[str, np.ndarray]:
  arrays = {'frechet_floor': study.frechet_floor(study.num_samples), 'angle': ANGLES}
  columns = {name: [] for name in (*MEASURES, 'frechet')}
  for name in LABELS:
    run = study.run(name)
    for measure in MEASURES:
      columns[measure].append(run.metric(measure))
    columns['frechet'].append(study.frechet_distances(run.draw(study.num_samples)))
  arrays |= {name: np.stack(values, axis=1) for name, values in columns.items()}
  arrays['gap'] = np.array([_gap(angle) for angle in np.radians(ANGLES)])
  full = study.run('vae_full')
  code = full.tools.method.code
  roots = full.over_test(lambda v, keys, batch: code.posterior(v, batch.x).scale_tril)
  covariances = [root @ root.swapaxes(-1, -2) for root in roots]
  smallest = np.array([np.linalg.eigvalsh(of_seed).min() for of_seed in covariances])
  return arrays | {'smallest_eigenvalue': smallest}


def _gap(angle: float) -> float:
  """What the best diagonal posterior loses, in nats, of loadings at this angle in the plane."""
  loadings = 2 * np.array([[1.0, np.cos(angle)], [0.0, np.sin(angle)]])
  with jax.enable_x64(True):
    model = analytic.ProbabilisticPCA(
      loadings=jnp.array(loadings), mean=jnp.zeros(2), noise_variance=jnp.array(0.25)
    )
    return float(analytic.pca_posterior_gap(model))


def draw(arrays):
  fig, axes = style.panels(1, 5, width=2.4)
  *bars, quality, exact = axes[0]
  for ax, (name, label) in zip(bars, MEASURES.items(), strict=True):
    style.points(ax, list(LABELS.values()), arrays[name])
    ax.set(ylabel=label)
  style.points(quality, list(LABELS.values()), arrays['frechet'])
  style.floor(quality, arrays['frechet_floor'])
  quality.set(yscale='log', ylabel='Fréchet distance')
  style.plot(exact, arrays['angle'], arrays['gap'], 0)
  exact.set(xlabel='angle, degrees', ylabel='ELBO lost by a diagonal one, nats')
  exact.set_ylim(bottom=0)
  return fig
