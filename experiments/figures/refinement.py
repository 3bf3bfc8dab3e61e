"""F7: decoding, encoding and decoding again (lecture section 3.4)."""

import numpy as np

from experiments.figures import style
from experiments.figures.figure import Study

TITLE = 'Refining a sample'
CAPTION = (
  'Samples of a VAE after decoding and encoding them again, by the mean of q(z | x) or by a draw '
  'from it: the Fréchet distance, the share of the training pictures that they cover (recall), '
  'their sharpness, that of real pictures being 1. Pictures: the same codes along the iterations, '
  'by the mean. Means and 95% bands over the seeds.'
)
RUNS = ('classifier', 'vae')
ITERATIONS = (0, 1, 2, 5, 10, 50)
WAYS = {'mean': 'by the mean', 'sample': 'by a draw'}
NUM_SHOWN = 12


def compute(study: Study) -> dict[str, np.ndarray]:
  run = study.run('vae')
  arrays = {
    'iterations': np.array(ITERATIONS),
    'frechet_floor': study.frechet_floor(study.num_samples),
  }
  for way in WAYS:
    columns = {name: [] for name in ('frechet', 'recall', 'sharpness')}
    shown = []
    for iterations in ITERATIONS:
      refined = run.changed(sampler={'refinements': iterations, 'refine_by': way})
      samples = refined.draw(study.num_samples)
      columns['frechet'].append(study.frechet_distances(samples))
      columns['recall'].append(study.recalls(samples))
      columns['sharpness'].append(study.sharpness(samples))
      shown.append(study.as_bytes(samples[0][:NUM_SHOWN]))
    arrays |= {f'{name}_{way}': np.stack(values, axis=1) for name, values in columns.items()}
    if way == 'mean':
      arrays['samples'] = np.stack(shown)
  return arrays


def draw(arrays):
  fig, axes = style.panels(2, 2)
  shown = arrays['samples']
  labels = [str(value) for value in arrays['iterations']]
  title = f'rows: {", ".join(labels)} iterations'
  style.pictures(axes[0, 0], shown.reshape(-1, *shown.shape[2:]), NUM_SHOWN, title)
  for ax, name, label in (
    (axes[0, 1], 'frechet', 'Fréchet distance'),
    (axes[1, 0], 'recall', 'recall'),
    (axes[1, 1], 'sharpness', 'sharpness'),
  ):
    for i, (way, kind) in enumerate(WAYS.items()):
      style.line(ax, np.arange(len(labels)), arrays[f'{name}_{way}'], i, kind)
    ax.set_xticks(np.arange(len(labels)), labels)
    ax.set(xlabel='iterations', ylabel=label)
  style.floor(axes[0, 1], arrays['frechet_floor'])
  style.floor(axes[1, 1], 1.0)
  axes[0, 1].legend()
  return fig
