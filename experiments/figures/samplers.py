"""F12: samplers beside each other, along the calls of the network (section 4)."""

import numpy as np

from experiments.figures import style
from experiments.figures.figure import Study

TITLE = 'Samplers'
CAPTION = (
  'The Fréchet distance of samples of one trained model along the calls of its network, for every '
  'sampler: ancestral steps (the same as DDIM with eta 1), DDIM (Song et al. 2021), '
  'DPM-Solver++(2M) (Lu et al. 2022), along the probability flow and, with eta 1, with noise put '
  'back, and Heun (Karras et al. 2022). Means and 95% bands over the seeds.'
)
RUNS = ('classifier', 'diffusion')
# label: fields of the sampler.
SAMPLERS = {
  'ancestral': {'name': 'ancestral'},
  'DDIM': {'name': 'ddim'},
  'DPM-Solver++(2M)': {'name': 'dpm_solver_pp_2m', 'spacing': 'log_snr'},
  'DPM-Solver++(2M), eta = 1': {'name': 'dpm_solver_pp_2m', 'eta': 1.0, 'spacing': 'log_snr'},
  'Heun': {'name': 'heun', 'spacing': 'log_snr'},
}
# Beside the whole chain, which Heun's method, of two calls a step, goes without.
FEW_STEPS = (5, 10, 20, 50)


def compute(study: Study) -> dict[str, np.ndarray]:
  run = study.run('diffusion')
  whole = run.tools.config['schedule']['T']
  arrays = {'frechet_floor': study.frechet_floor(study.num_chains)}
  for label, fields in SAMPLERS.items():
    # Heun calls the network twice in all steps but the last.
    is_heun = fields['name'] == 'heun'
    steps = [max(num // 2, 1) for num in FEW_STEPS] if is_heun else [*FEW_STEPS, whole]
    arrays[f'calls_{label}'] = np.array([2 * num - 1 if is_heun else num for num in steps])
    arrays[f'frechet_{label}'] = np.stack(
      [
        study.frechet_distances(
          run.changed(sampler=fields | {'num_steps': num}).draw(study.num_chains)
        )
        for num in steps
      ],
      axis=1,
    )
  return arrays


def draw(arrays):
  fig, axes = style.panels(1, 1, width=4.5, height=3.2)
  ax = axes[0, 0]
  for i, label in enumerate(SAMPLERS):
    style.line(ax, arrays[f'calls_{label}'], arrays[f'frechet_{label}'], i, label)
  style.floor(ax, arrays['frechet_floor'])
  ax.set(xscale='log', yscale='log', xlabel='calls of the network', ylabel='Fréchet distance')
  ax.legend()
  return fig
