"""F5: the balance between the two losses (lecture section 3.3)."""

import numpy as np

from configs.paper import BETAS, beta_run
from experiments.figures import style
from experiments.figures.figure import Study

TITLE = 'The balance of reconstruction and KL'
CAPTION = (
  'VAEs along the weight beta on the KL. Rate (the KL) and distortion (the reconstruction), of '
  'test pictures; active units, and a lower and an upper bound on the information that the code '
  'has of the picture (the lower one is at most the logarithm of the number of pictures, the '
  'dotted line); the Fréchet distance of samples, the variance between reconstructions and their '
  'squared distance from the average training picture (they are the location of p(x | z), which is '
  'near the median where pixels are skewed), relative to the variance between pictures. '
  'Below: test pictures, reconstructions and samples at the two ends and between. Means and 95% '
  'bands over the seeds.'
)
RUNS = ('classifier', *(beta_run(beta) for beta in BETAS))
MEASURES = (
  'kl',
  'reconstruction',
  'active_units',
  'mutual_information',
  'mutual_information_upper',
)
# Shown as pictures.
SHOWN = (BETAS[0], 1.0, BETAS[-1])
NUM_SHOWN = 8


def compute(study: Study) -> dict[str, np.ndarray]:
  columns = {name: [] for name in (*MEASURES, 'frechet', 'spread', 'from_average', 'sharpness')}
  arrays = {'beta': np.array(BETAS), 'frechet_floor': study.frechet_floor(study.num_samples)}
  pictures, average = study.held_out.x, study.train.x.mean(axis=0, dtype=np.float64)
  arrays['log_num'] = np.log(len(pictures))
  arrays['original'] = study.as_bytes(pictures[:NUM_SHOWN])
  for beta in BETAS:
    run = study.run(beta_run(beta))
    for name in MEASURES:
      columns[name].append(run.metric(name))
    samples = run.draw(study.num_samples)
    reconstructed = run.over_test(run.tools.method.reconstruct)
    columns['frechet'].append(study.frechet_distances(samples))
    columns['sharpness'].append(study.sharpness(reconstructed))
    columns['spread'].append(np.array([_variance(x) / _variance(pictures) for x in reconstructed]))
    columns['from_average'].append(
      np.array([np.square(x - average).mean() / _variance(pictures) for x in reconstructed])
    )
    if beta in SHOWN:
      arrays[f'reconstructed_{beta:g}'] = study.as_bytes(reconstructed[0][:NUM_SHOWN])
      arrays[f'samples_{beta:g}'] = study.as_bytes(samples[0][:NUM_SHOWN])
  return arrays | {name: np.stack(values, axis=1) for name, values in columns.items()}


def _variance(x: np.ndarray) -> float:
  """Between pictures, in the mean over pixels."""
  return float(np.var(x.astype(np.float64), axis=0).mean())


def draw(arrays):
  fig, axes = style.panels(2, 3)
  beta = arrays['beta']
  ax = axes[0, 0]
  rate, distortion = arrays['kl'], arrays['reconstruction']
  ax.errorbar(
    rate.mean(0),
    distortion.mean(0),
    style.half_width(distortion),
    style.half_width(rate),
    color=style.COLORS[0],
    marker='o',
    capsize=2,
  )
  for i, value in enumerate(beta):
    ax.annotate(f' {value:g}', (rate[:, i].mean(), distortion[:, i].mean()), fontsize=7)
  ax.set(xlabel='rate, nats', ylabel='distortion, nats', title='labels: beta')
  ax = axes[0, 1]
  style.line(ax, beta, arrays['active_units'], 0, 'active units')
  style.line(ax, beta, arrays['mutual_information'], 1, 'information, at least, nats')
  style.line(ax, beta, arrays['mutual_information_upper'], 2, 'information, at most, nats')
  ax.axhline(arrays['log_num'], color='0.4', linewidth=0.8, linestyle=(0, (1, 2)))
  ax.set(xscale='log', xlabel='beta')
  ax.legend()
  ax = axes[0, 2]
  style.line(ax, beta, arrays['frechet'], 0, 'Fréchet distance')
  style.floor(ax, arrays['frechet_floor'])
  style.line(ax, beta, arrays['spread'], 1, 'variance of reconstructions')
  style.line(ax, beta, arrays['from_average'], 2, 'distance from the average')
  ax.set(xscale='log', yscale='log', xlabel='beta')
  ax.set_ylim(top=1e6)
  ax.legend(loc='upper left')
  for ax, value in zip(axes[1], SHOWN, strict=True):
    rows = [
      arrays['original'],
      arrays[f'reconstructed_{value:g}'],
      arrays[f'samples_{value:g}'],
    ]
    style.pictures(ax, np.concatenate(rows), NUM_SHOWN, f'beta = {value:g}')
  return fig
