"""F3: the variational autoencoder (lecture section 3)."""

import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments.figures import style
from experiments.figures.figure import Study
from experiments.trained import Run
from vaediff import parallel

TITLE = 'The variational autoencoder'
CAPTION = (
  'Reconstructions of test pictures (below each its own), samples from N(0, I), interpolation '
  'between the codes of two test pictures in each row, and what a code of two dimensions decodes '
  'to at the quantiles of N(0, I), as Kingma & Welling (2014, figure 4) draw it, all of the first '
  'seed; and the bound on the negative log-likelihood of test pictures by the ELBO and by '
  'importance weighting (Burda et al. 2016). Means and 95% intervals over the seeds.'
)
RUNS = ('classifier', 'vae', 'vae_2d')
NUM_SHOWN, NUM_INTERPOLATED, NUM_QUANTILES = 8, 6, 15
# Of the importance-weighted bound.
NUM_DRAWS = 500


def compute(study: Study) -> dict[str, np.ndarray]:
  run, plane = study.run('vae'), study.run('vae_2d')
  num_rows = NUM_INTERPOLATED
  means = run.code_means()[0]
  share = np.linspace(0, 1, NUM_SHOWN)[None, :, None]
  paths = (1 - share) * means[:num_rows, None] + share * means[num_rows : 2 * num_rows, None]
  quantiles = stats.norm.ppf((np.arange(NUM_QUANTILES) + 0.5) / NUM_QUANTILES)
  # The first dimension to the right, the second upwards.
  square = np.stack(np.meshgrid(quantiles, quantiles[::-1]), axis=-1)
  reconstructed = run.over_test(run.tools.method.reconstruct)
  return {
    'original': study.as_bytes(study.held_out.x[:NUM_SHOWN]),
    'reconstructed': study.as_bytes(reconstructed[0][:NUM_SHOWN]),
    'samples': study.as_bytes(run.draw(study.num_samples)[0][: 6 * NUM_SHOWN]),
    'interpolated': study.as_bytes(_decode(run, paths.reshape(-1, means.shape[-1]))),
    'manifold': study.as_bytes(_decode(plane, square.reshape(-1, 2))),
    'codes': plane.code_means()[0],
    'label': study.held_out.label,
    'nll_bound': run.metric('nll_bound'),
    'nll': run.changed(
      evaluation={'likelihood': 'importance_weighted', 'num_draws': NUM_DRAWS}
    ).scores()['nll_bound'],
  }


def _decode(run: Run, z: np.ndarray) -> np.ndarray:
  """The pictures of codes, by the first seed."""
  (variables, *_) = run.tools.unstack(parallel.unreplicate(run.variables))
  z = jnp.asarray(z, jnp.float32)
  return np.asarray(run.tools.method.code.decode(variables, None, z))


def draw(arrays):
  fig, axes = style.panels(2, 3)
  pairs = np.stack([arrays['original'], arrays['reconstructed']])
  style.pictures(axes[0, 0], pairs.reshape(-1, *pairs.shape[2:]), NUM_SHOWN, 'reconstructions')
  style.pictures(axes[0, 1], arrays['samples'], NUM_SHOWN, 'samples')
  style.pictures(axes[0, 2], arrays['interpolated'], NUM_SHOWN, 'interpolation')
  style.pictures(axes[1, 0], arrays['manifold'], NUM_QUANTILES, 'two dimensions, decoded')
  style.scatter_classes(axes[1, 1], arrays['codes'], arrays['label'])
  axes[1, 1].set(title='codes of test pictures', aspect='equal')
  bounds = np.stack([arrays['nll_bound'], arrays['nll']], axis=1)
  style.points(axes[1, 2], ('ELBO', f'{NUM_DRAWS} draws'), bounds)
  axes[1, 2].set(ylabel='negative log-likelihood, at most, nats')
  return fig
