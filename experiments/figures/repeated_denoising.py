"""F2: plain repeated denoising beside diffusion (lecture section 2.2)."""

import numpy as np

from experiments import measures
from experiments.figures import style
from experiments.figures.figure import Study
from experiments.trained import Run
from vaediff import likelihoods
from vaediff.evaluation import quality

TITLE = 'Plain repeated denoising'
CAPTION = (
  'The chain of denoisers, each trained to give back x_{t-1} from x_t, with no noise put back, and '
  'diffusion with the same network and schedule. Pictures, from noise (left) to data: true draws '
  'of q(x_t), the chain, diffusion. Below, along t, beside draws of q(x_t): the Fréchet distance '
  'between pixels and the variance that x_t has too much or too little, both as shares of the '
  'variance of the draws, and its sharpness, that of the draws being 1. Means and 95% bands over '
  'the seeds.'
)
RUNS = ('classifier', 'denoising_chain', 'diffusion')
SYSTEMS = {'denoising_chain': 'chain of denoisers', 'diffusion': 'diffusion'}
NUM_LEVELS = 11


def compute(study: Study) -> dict[str, np.ndarray]:
  arrays = {'frechet_floor': study.frechet_floor(study.num_chains)}
  for name in SYSTEMS:
    run = study.run(name)
    chains = run.sample_by(_make_chain(run), study.num_chains)
    states, log_snr = [chain['x'] for chain in chains], chains[0]['log_snr'][0]
    num_levels = run.tools.experiment.num_levels
    real = list(measures.draw_states(study.train.x, num_levels, log_snr, len(states[0])))
    variance = np.array([np.var(x_t, axis=0).sum() for x_t in real])
    drift = [
      [
        quality.drift(*(x.reshape(len(x), -1) for x in (real_x_t, x_t)))
        for real_x_t, x_t in zip(real, own.swapaxes(0, 1), strict=True)
      ]
      for own in states
    ]
    arrays |= {
      f'{measure}_{name}': np.array([[at[measure]['value'] for at in own] for own in drift])
      for measure in ('frechet_distance', 'variance_change')
    }
    arrays[f'frechet_distance_{name}'] /= variance
    arrays[f'sharpness_{name}'] = np.array(
      [
        [
          quality.sharpness(real_x_t, x_t).value
          for real_x_t, x_t in zip(real, own.swapaxes(0, 1), strict=True)
        ]
        for own in states
      ]
    )
    ends = [np.asarray(likelihoods.quantize(own[:, -1], num_levels)) for own in states]
    arrays[f'frechet_end_{name}'] = study.frechet_distances(ends)
    arrays[f'states_{name}'] = _as_bytes(states[0][:3])
    arrays['log_snr'], arrays['states_real'] = log_snr, _as_bytes(np.stack(real, axis=1)[:3])
  return arrays


def _as_bytes(states: np.ndarray) -> np.ndarray:
  """[N, L, H, W, C] on [-1, 1] as bytes."""
  return np.asarray(likelihoods.quantize(states, 256))


def _make_chain(run: Run):
  """A sampler of NUM_LEVELS states of the chain, the first and the last among them."""

  def sample(variables, keys, label):
    chain = run.tools.method.trajectory(variables, keys, label)
    shown = np.linspace(0, chain['x'].shape[1] - 1, NUM_LEVELS).round().astype(int)
    return {name: values[:, shown] for name, values in chain.items()}

  return sample


def draw(arrays):
  fig, axes = style.panels(2, 3)
  for ax, name, title in zip(
    axes[0], ('real', *SYSTEMS), ('true q(x_t)', *SYSTEMS.values()), strict=True
  ):
    states = arrays[f'states_{name}']
    style.pictures(ax, states.reshape(-1, *states.shape[2:]), states.shape[1], title)
  # The end has no noise: it stands where a next level would.
  x = np.arange(NUM_LEVELS)
  labels = [f'{value:.1f}' for value in arrays['log_snr'][:-1]] + ['data']
  for ax, measure, title in (
    (axes[1, 0], 'frechet_distance', 'Fréchet distance to q(x_t), relative'),
    (axes[1, 1], 'variance_change', 'relative change of variance'),
    (axes[1, 2], 'sharpness', 'sharpness, relative to q(x_t)'),
  ):
    for i, (name, label) in enumerate(SYSTEMS.items()):
      style.line(ax, x, arrays[f'{measure}_{name}'], i, label)
    ax.set_xticks(x[::2], labels[::2])
    ax.set(xlabel='log-SNR', ylabel=title)
  axes[1, 0].legend()
  axes[1, 1].axhline(0, color='0.4', linewidth=0.8)
  axes[1, 2].axhline(1, color='0.4', linewidth=0.8)
  return fig
