"""Importance-sampled likelihood, 5,000 draws for each picture: `configs/burda.py`, 784-200-200-50.

The rate is measured on the first pictures of the test split, by the evaluation of a run; the whole
split is evaluated once. Memory is the greatest of the whole process.
"""

import resource
import time

import jax
import numpy as np

from benchmarks import flops, timing
from configs import burda
from experiments.build import build
from experiments.tools import EVALUATE, Tools
from vaediff import data, parallel, random, training
from vaediff.methods.base import Batch

NUM_DRAWS, NUM_PICTURES, BATCH_SIZE = 5_000, 200, 100
SHARED_BATCHES = (BATCH_SIZE,)


def run(num_turns: int) -> dict[str, list[dict]]:
  """The rate as a fraction of the ceiling, the time of 10,000 pictures, and memory."""
  tools = make_tools(NUM_DRAWS)
  split = first_pictures(tools, NUM_PICTURES)
  variables = training.averaged(tools.initial_state())
  cost = flops_per_picture(tools, variables)
  replicated, key = parallel.replicate(variables, tools.devices), tools.key(EVALUATE)
  work = timing.Work(
    lambda: tools.scores(replicated, key, split), NUM_PICTURES, cost * NUM_PICTURES
  )
  rates = timing.compare({'ours': work}, num_turns, 'pictures', [])
  start = time.perf_counter()
  tools.scores(replicated, key, tools.experiment.dataset.evaluation)
  whole = {
    'GFLOP of a picture': 1e-9 * cost,
    '10,000 pictures, s': time.perf_counter() - start,
    'memory, GiB': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
  }
  return {'Rate': rates, 'Whole split': [whole]}


def make_tools(num_draws: int) -> Tools:
  config = burda.get_config('vae_1').to_dict()
  config['evaluation'].update(num_draws=num_draws, batch_size=BATCH_SIZE)
  return Tools(build(config), config, None, jax.devices())


def first_pictures(tools: Tools, num: int) -> data.Split:
  split = tools.experiment.dataset.evaluation
  return data.Split(split.name, split.x[:num], split.label[:num])


def flops_per_picture(tools: Tools, variables) -> float:
  split = first_pictures(tools, BATCH_SIZE)
  index = np.arange(BATCH_SIZE, dtype=np.int32)
  keys = random.example_keys(tools.key(EVALUATE), 0, index)
  bound = tools.method.log_likelihood_bound
  return flops.of_jax(bound, variables, keys, Batch(split.x, split.label, index)) / BATCH_SIZE
