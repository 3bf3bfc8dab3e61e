"""F5: the balance between the two losses (lecture section 3.3)."""

import numpy as np

from configs.paper import BETAS, beta_run
from experiments.figures import style
from experiments.figures.figure import Study

TITLE = 'The balance of reconstruction and KL'
CAPTION = (
  'VAEs along the weight beta on the KL. Rate (the KL) and distortion (the reconstruction), of '
  'test pictures; active units and the information that the code has of the picture; the Fréchet '
  'distance of samples, and the variance between reconstructions relative to that between '
  'pictures. Where the KL dominates, the code carries nothing and every picture is reconstructed '
  'as the average one; where the reconstruction does, samples are bad. Below: test pictures, '
  'reconstructions and samples at the two ends and between. Means and 95% bands over the seeds.'
)
RUNS = ('classifier', *(beta_run(beta) for beta in BETAS))
MEASURES = ('kl', 'reconstruction', 'active_units', 'mutual_information', 'nll_bound')
# Shown as pictures.
SHOWN = (BETAS[0], 1.0, BETAS[-1])
NUM_SHOWN = 8


def compute(study: Study) -> dict[str, np.ndarray]:
  columns = {name: [] for name in (*MEASURES, 'frechet', 'spread')}
  arrays = {'beta': np.array(BETAS), 'frechet_floor': study.frechet_floor}
  pictures = study.held_out.x
  arrays['original'] = study.as_bytes(pictures[:NUM_SHOWN])
  for beta in BETAS:
    run = study.run(beta_run(beta))
    for name in MEASURES:
      columns[name].append(run.metric(name))
    samples = run.draw()
    reconstructed = run.over_test(run.tools.method.reconstruct)
    columns['frechet'].append(study.frechet_distances(samples))
    columns['spread'].append(np.array([_variance(x) / _variance(pictures) for x in reconstructed]))
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
  style.line(ax, beta, arrays['mutual_information'], 1, 'information, nats')
  ax.set(xscale='log', xlabel='beta')
  ax.legend()
  ax = axes[0, 2]
  style.line(ax, beta, arrays['frechet'], 0, 'Fréchet distance')
  style.floor(ax, arrays['frechet_floor'])
  style.line(ax, beta, arrays['spread'], 1, 'variance of reconstructions')
  ax.set(xscale='log', yscale='symlog', xlabel='beta')
  ax.set_ylim(bottom=0)
  ax.legend()
  for ax, value in zip(axes[1], SHOWN, strict=True):
    rows = [
      arrays['original'],
      arrays[f'reconstructed_{value:g}'],
      arrays[f'samples_{value:g}'],
    ]
    style.pictures(ax, np.concatenate(rows), NUM_SHOWN, f'beta = {value:g}')
  return fig
