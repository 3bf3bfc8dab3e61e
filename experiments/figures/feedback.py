"""F11: denoising as feedback control (lecture section 4)."""

import jax.numpy as jnp
import numpy as np

from experiments.figures import style
from experiments.figures.figure import Study
from experiments.trained import Run
from vaediff import forward_process, likelihoods, random

TITLE = 'Denoising as feedback control'
CAPTION = (
  'Ancestral sampling with the noise that is put back at each step scaled: 0 is none, 1 the '
  "model's. A push to x_t half-way along the chain, as long as the noise of x_t in a direction "
  'drawn for each sample, and the chain goes on with the same noise as without. Left: how far x_t '
  'then is from where it would have been, relative to the push. Middle: the Fréchet distance of '
  'samples with and without the push, along the noise scale. Right: samples with the push. Means '
  'and 95% bands over the seeds.'
)
RUNS = ('classifier', 'diffusion')
NOISE_SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
SHOWN = (0.0, 0.5, 1.0)
NUM_LEVELS = 25


def compute(study: Study) -> dict[str, np.ndarray]:
  arrays = {
    'noise_scale': np.array(NOISE_SCALES),
    'frechet_floor': study.frechet_floor(study.num_chains),
  }
  columns = {name: [] for name in ('frechet', 'frechet_pushed', 'kept')}
  for noise_scale in NOISE_SCALES:
    run = study.run('diffusion').changed(sampler={'noise_scale': noise_scale})
    ends = run.sample_by(_make_pushed(run), study.num_chains)
    free, pushed = (study.frechet_distances([own[k] for own in ends]) for k in ('free', 'pushed'))
    columns['frechet'].append(free)
    columns['frechet_pushed'].append(pushed)
    columns['kept'].append(np.array([own['distance'][:, -1].mean() for own in ends]))
    if noise_scale in SHOWN:
      arrays[f'distance_{noise_scale:g}'] = np.array([own['distance'].mean(0) for own in ends])
      arrays[f'samples_{noise_scale:g}'] = study.as_bytes(ends[0]['pushed'][:8])
  arrays['log_snr'] = ends[0]['log_snr'][0]
  return arrays | {name: np.stack(values, axis=1) for name, values in columns.items()}


def _make_pushed(run: Run):
  """A sampler of both ends, and of the distance between the two chains on the way."""
  method, num_levels = run.tools.method, run.tools.experiment.num_levels

  def sample(variables, keys, label):
    push_keys, keys = random.split(keys)
    chain = method.trajectory(variables, keys, label)
    num_steps = chain['x'].shape[1] - 1
    t = num_steps // 2
    free, log_snr = chain['x'][:, num_steps - t :], chain['log_snr'][:, num_steps - t :]
    _, noise = forward_process.scales(log_snr[:, 0], free[:, 0])
    push = noise * random.normal(push_keys, free[:, 0].shape)
    pushed = method.descend(variables, keys, label, free[:, 0] + push, t)
    axes = tuple(range(2, free.ndim))
    distance = jnp.sqrt(jnp.sum(jnp.square(pushed - free), axis=axes))
    shown = np.linspace(0, t, NUM_LEVELS).round().astype(int)
    return {
      'free': likelihoods.quantize(free[:, -1], num_levels),
      'pushed': likelihoods.quantize(pushed[:, -1], num_levels),
      'distance': (distance / distance[:, :1])[:, shown],
      'log_snr': log_snr[:, shown],
    }

  return sample


def draw(arrays):
  fig, axes = style.panels(1, 3)
  # The end has no noise: it stands where a next level would.
  x = np.arange(NUM_LEVELS)
  for i, noise_scale in enumerate(SHOWN):
    distance = arrays[f'distance_{noise_scale:g}']
    style.line(axes[0, 0], x, distance, i, f'noise scale {noise_scale:g}', marker=False)
  labels = [f'{value:.1f}' for value in arrays['log_snr'][:-1]] + ['data']
  axes[0, 0].set_xticks(x[::4], labels[::4])
  axes[0, 0].set(xlabel='log-SNR', ylabel='share of the push that is left')
  axes[0, 0].legend()
  ax = axes[0, 1]
  style.line(ax, arrays['noise_scale'], arrays['frechet'], 0, 'without a push')
  style.line(ax, arrays['noise_scale'], arrays['frechet_pushed'], 1, 'with a push')
  style.floor(ax, arrays['frechet_floor'])
  ax.set(yscale='log', xlabel='noise scale', ylabel='Fréchet distance')
  ax.legend()
  rows = [arrays[f'samples_{noise_scale:g}'] for noise_scale in SHOWN]
  title = 'rows: noise scale ' + ', '.join(f'{value:g}' for value in SHOWN)
  style.pictures(axes[0, 2], np.concatenate(rows), 8, title)
  return fig
