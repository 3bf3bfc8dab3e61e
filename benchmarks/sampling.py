"""Sampling: 64 pictures by 1,000 ancestral steps, beside diffusers; and few-step solvers.

The first table times chains of 50 steps by turns, and the second one whole chain of each, 1,000
steps of DDPMScheduler with UNet2DModel and of ours with a U-Net of equal cost (third table). The
fourth is the Frechet distance of 1,000 samples of `configs/digits_diffusion.py`, trained by its own
command, to the training pictures, in the features of `configs/digits_classifier.py`, along solvers
and calls of the network; every row has the same seed.
"""

import subprocess
import sys
import time
from pathlib import Path

import jax

from benchmarks import peers, timing, unet
from experiments import measures, trained

QUALITY_BATCH_SIZE = 500
SHARED_BATCHES = (unet.BATCH_SIZE, QUALITY_BATCH_SIZE)
NUM_STEPS, NUM_STEPS_OF_A_TURN = 1_000, 50
PEER_WIDTHS, OUR_WIDTHS, OUR_BLOCKS = (16, 32, 64), (48, 24), 3
RUNS = Path('runs/benchmarks')
# Solver and its steps; Heun calls the network twice in all steps but the last.
SOLVERS = (
  ('ancestral', 1_000),
  ('ancestral', 20),
  ('ddim', 1_000),
  ('ddim', 20),
  ('ddim', 10),
  ('dpm_solver_pp_2m', 20),
  ('dpm_solver_pp_2m', 10),
  ('heun', 10),
  ('heun', 5),
)


def run(num_turns: int) -> dict[str, list[dict]]:
  """Pictures per second of whole chains, and the quality of short ones."""
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

  works = {
    name: timing.Work(chain, unet.BATCH_SIZE, NUM_STEPS_OF_A_TURN * costs[name] * unet.BATCH_SIZE)
    for name, chain in chains(NUM_STEPS_OF_A_TURN).items()
  }
  tables = {f'{NUM_STEPS_OF_A_TURN} steps': timing.compare(works, num_turns, 'pictures', ['ours'])}
  whole = []
  for name, chain in chains(NUM_STEPS).items():
    start = time.perf_counter()
    chain()
    seconds = time.perf_counter() - start
    whole.append(
      {'contender': name, 'seconds, compiling included': seconds, 'pictures/s': 64 / seconds}
    )
  sizes = {
    'ours': sum(leaf.size for leaf in jax.tree.leaves(params)),
    'diffusers': sum(leaf.numel() for leaf in model.parameters()),
  }
  cost = [
    {'network': name, 'parameters': sizes[name], 'GFLOP of a call': 1e-9 * costs[name]}
    for name in costs
  ]
  return tables | {f'{NUM_STEPS} steps, once': whole, 'Cost': cost}


def _solvers() -> list[dict]:
  classifier, folder = RUNS / 'digits_classifier', RUNS / 'digits_diffusion'
  for path in (classifier, folder):
    command = [sys.executable, '-m', 'experiments.run']
    subprocess.run([*command, f'--config=configs/{path.name}.py', f'--workdir={path}'], check=True)
  rows, reference = [], None
  for name, num_steps in SOLVERS:
    distance = _distance(folder, classifier, name, num_steps)
    reference = reference or distance['value']
    rows.append(
      {
        'solver': name,
        'calls': 2 * num_steps - 1 if name == 'heun' else num_steps,
        'Frechet distance': distance['value'],
        'standard error': distance['stderr'],
        'of that of 1,000 ancestral steps': distance['value'] / reference,
      }
    )
  return rows


def _distance(folder: Path, classifier: Path, solver: str, num_steps: int) -> dict:
  """The Frechet distance of the trained model's samples on the schedule with 1,000 levels."""
  run = trained.load(folder).changed(
    schedule={'T': NUM_STEPS},
    sampler={'name': solver, 'num_steps': num_steps},
    sampling={'batch_size': QUALITY_BATCH_SIZE},
    quality={'classifier': str(classifier)},
  )
  ((metrics, _),) = measures.sample_quality(run.tools, run.variables)
  return metrics['frechet_distance']
