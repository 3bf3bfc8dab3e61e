"""Few-step solvers: how good samples are by how many calls of the network.

The Frechet distance of 1,000 samples of `configs/digits_diffusion.py`, trained by its own command,
to the training pictures, in the features of `configs/digits_classifier.py`, along solvers and calls
of the network. Each solver draws eight times, by the same keys as the others: the errors are those
over the keys, and the last column is a mean over them of ratios of the same key.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from experiments import measures, trained
from vaediff.evaluation import quality

BATCH_SIZE = 500
SHARED_BATCHES = (BATCH_SIZE,)
NUM_SAMPLES, NUM_KEYS, NUM_STEPS = 1_000, 8, 1_000
RUNS = Path('runs/benchmarks')
# Solver, its eta and its steps; Heun calls the network twice in all steps but the last.
SOLVERS = (
  ('ancestral', 0.0, 1_000),
  ('ancestral', 0.0, 20),
  ('ddim', 0.0, 20),
  ('ddim', 0.0, 10),
  ('dpm_solver_pp_2m', 0.0, 20),
  ('dpm_solver_pp_2m', 0.0, 10),
  ('dpm_solver_pp_2m', 1.0, 20),
  ('dpm_solver_pp_2m', 1.0, 10),
  ('heun', 0.0, 10),
  ('heun', 0.0, 5),
)


def run(num_turns: int) -> dict[str, list[dict]]:
  """The Frechet distance of each solver; nothing is timed."""
  del num_turns
  classifier, folder = RUNS / 'digits_classifier', RUNS / 'digits_diffusion'
  for path in (classifier, folder):
    command = [sys.executable, '-m', 'experiments.run']
    subprocess.run([*command, f'--config=configs/{path.name}.py', f'--workdir={path}'], check=True)
  run = trained.load(folder).changed(sampling={'batch_size': BATCH_SIZE})
  config = run.tools.config | {'quality': {'classifier': str(classifier)}}
  describe = measures.load_classifier(config, run.tools.devices)
  real = describe(run.tools.experiment.dataset.train.x)['features']
  rows, reference = [], None
  for name, eta, num_steps in SOLVERS:
    distances = np.array(
      [
        quality.frechet_distance(real, describe(x)['features']).value
        for x in _draws(run, {'name': name, 'eta': eta, 'num_steps': num_steps})
      ]
    )
    reference = distances if reference is None else reference
    value, ratio = (quality.estimate(np.mean(v), v) for v in (distances, distances / reference))
    rows.append(
      {
        'solver': f'{name}, eta = {eta:g}' if eta else name,
        'calls': 2 * num_steps - 1 if name == 'heun' else num_steps,
        'Frechet distance': f'{value.value:.3f} +- {value.stderr:.3f}',
        'of that of 1,000 ancestral steps': f'{ratio.value:.3f} +- {ratio.stderr:.3f}',
      }
    )
  return {'Solvers': rows}


def _draws(run: trained.Run, sampler: dict) -> Iterator[np.ndarray]:
  """NUM_SAMPLES samples by each key, on the schedule with 1,000 levels."""
  run = run.changed(schedule={'T': NUM_STEPS}, sampler=sampler)
  for key in jax.random.split(jax.random.key(0), NUM_KEYS):
    (drawn,) = run.tools.sampler(run.variables, key, run.tools.labels(NUM_SAMPLES))
    yield drawn
