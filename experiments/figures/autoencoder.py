"""F1: sampling a plain autoencoder (lecture section 2.1)."""

import numpy as np

from experiments.figures import style
from experiments.figures.figure import Study

TITLE = 'Sampling a plain autoencoder'
CAPTION = (
  'A plain autoencoder reconstructs the test pictures (upper rows; below each its reconstruction), '
  'but nothing says how its codes are distributed: those of the test pictures, here of two '
  'dimensions, are not N(0, I), of which the circles hold 39% and 86%. Samples are decoded from '
  'N(0, I), and from one Gaussian and a mixture of ten that are fitted to the codes of the '
  'training pictures; beside them reconstructions of as many training pictures, and samples of a '
  'VAE. Means and 95% intervals over the seeds.'
)
RUNS = ('classifier', 'autoencoder', 'autoencoder_2d', 'vae')
CODES = {'prior': 'N(0, I)', 'normal': 'one Gaussian', 'mixture': 'mixture of 10'}
NUM_SHOWN = 8


def compute(study: Study) -> dict[str, np.ndarray]:
  run, plane = study.run('autoencoder'), study.run('autoencoder_2d')
  reconstructed = run.over_test(run.tools.method.reconstruct)
  arrays = {
    'original': study.as_bytes(study.held_out.x[:NUM_SHOWN]),
    'reconstructed': study.as_bytes(reconstructed[0][:NUM_SHOWN]),
    'frechet_floor': study.frechet_floor(study.num_samples),
    'frechet_reconstructed': study.frechet_distances(
      run.over(study.others, run.tools.method.reconstruct)
    ),
    'frechet_vae': study.frechet_distances(study.run('vae').draw(study.num_samples)),
  }
  for codes in CODES:
    samples = run.changed(sampler={'codes': codes}).draw(study.num_samples)
    arrays[f'samples_{codes}'] = study.as_bytes(samples[0][: 2 * NUM_SHOWN])
    arrays[f'frechet_{codes}'] = study.frechet_distances(samples)
  return arrays | {'codes': plane.code_means()[0], 'label': study.held_out.label}


def draw(arrays):
  fig, axes = style.panels(2, 3)
  pairs = np.stack([arrays['original'], arrays['reconstructed']]).reshape(
    -1, *arrays['original'].shape[1:]
  )
  style.pictures(axes[0, 0], pairs, NUM_SHOWN, 'reconstructions')
  for ax, (codes, label) in zip((axes[0, 1], axes[0, 2], axes[1, 0]), CODES.items(), strict=True):
    style.pictures(ax, arrays[f'samples_{codes}'], NUM_SHOWN, f'samples, {label}')
  style.scatter_classes(axes[1, 1], arrays['codes'], arrays['label'])
  angle = np.linspace(0, 2 * np.pi, 200)
  for radius in (1, 2):
    axes[1, 1].plot(radius * np.cos(angle), radius * np.sin(angle), color='0', linewidth=0.8)
  axes[1, 1].set(title='codes of two dimensions', aspect='equal')
  ax = axes[1, 2]
  style.points(
    ax,
    [*CODES.values(), 'reconstructions', 'VAE, N(0, I)'],
    np.stack([arrays[f'frechet_{name}'] for name in (*CODES, 'reconstructed', 'vae')], axis=1),
  )
  style.floor(ax, arrays['frechet_floor'])
  ax.set(yscale='log', ylabel='Fréchet distance')
  ax.legend()
  return fig
