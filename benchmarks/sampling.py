"""Sampling: 64 pictures by 1,000 ancestral steps, beside diffusers; and few-step solvers.

The first table times chains of 50 steps by turns, and the second a few whole ones, 1,000 steps of
DDPMScheduler with UNet2DModel and of ours with a U-Net of equal cost (third table). The fourth is
the Frechet distance of 1,000 samples of `configs/digits_diffusion.py`, trained by its own command,
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

from benchmarks import peers, timing, unet
from experiments import measures, trained
from vaediff.evaluation import quality

QUALITY_BATCH_SIZE = 500
NUM_SAMPLES, NUM_KEYS = 1_000, 8
SHARED_BATCHES = (unet.BATCH_SIZE, QUALITY_BATCH_SIZE)
NUM_STEPS, NUM_STEPS_OF_A_TURN, NUM_WHOLE_CHAINS = 1_000, 50, 3
PEER_WIDTHS, OUR_WIDTHS, OUR_BLOCKS = (16, 32, 64), (88, 16), 1
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
  """Pictures per second of ancestral chains, and the quality of short ones."""
  return _rates(num_turns) | {'Solvers': _solvers()}


def _rates(num_turns: int) -> dict[str, list[dict]]:
  model, network = peers.unet(PEER_WIDTHS), unet.our_network(OUR_WIDTHS, OUR_BLOCKS)
  params = jax.jit(network.init)(jax.random.key(0), *unet.inputs(1))
  costs = {'ours': unet.our_flops(network, params), 'diffusers': unet.peer_flops(model)}

  def chains(num_steps):
    return {
      'ours': unet.our_sampling(unet.our_method(network, num_steps), params),
      'diffusers': peers.ancestral_sampling(model, unet.BATCH_SIZE, num_steps),
    }

  tables = {}
  for num_steps, turns in ((NUM_STEPS_OF_A_TURN, num_turns), (NUM_STEPS, NUM_WHOLE_CHAINS)):
    works = {
      name: timing.Work(chain, unet.BATCH_SIZE, num_steps * costs[name] * unet.BATCH_SIZE)
      for name, chain in chains(num_steps).items()
    }
    tables[f'{num_steps} steps'] = timing.compare(works, turns, 'pictures', ['ours'])
  sizes = {
    'ours': sum(leaf.size for leaf in jax.tree.leaves(params)),
    'diffusers': sum(leaf.numel() for leaf in model.parameters()),
  }
  cost = [
    {'network': name, 'parameters': sizes[name], 'GFLOP of a call': 1e-9 * costs[name]}
    for name in costs
  ]
  ratios = (of['ours'] / of['diffusers'] for of in (sizes, costs))
  cost.append(dict(zip(cost[0], ('ratio', *ratios), strict=True)))
  return tables | {'Cost': cost}


def _solvers() -> list[dict]:
  classifier, folder = RUNS / 'digits_classifier', RUNS / 'digits_diffusion'
  for path in (classifier, folder):
    command = [sys.executable, '-m', 'experiments.run']
    subprocess.run([*command, f'--config=configs/{path.name}.py', f'--workdir={path}'], check=True)
  run = trained.load(folder).changed(sampling={'batch_size': QUALITY_BATCH_SIZE})
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
  return rows


def _draws(run: trained.Run, sampler: dict) -> Iterator[np.ndarray]:
  """NUM_SAMPLES samples by each key, on the schedule with 1,000 levels."""
  run = run.changed(schedule={'T': NUM_STEPS}, sampler=sampler)
  for key in jax.random.split(jax.random.key(0), NUM_KEYS):
    (drawn,) = run.tools.sampler(run.variables, key, run.tools.labels(NUM_SAMPLES))
    yield drawn
