"""How the time of a step grows, with the exponent of the power that fits it best.

Training of the VAE of `configs/digits_vae.py` along batch size and width, of diffusion on digits
along the levels T; the evaluated bound of diffusion along T, all terms of it; and training of both
along the number of devices, at one global batch. These are virtual devices that share the cores of
one machine: up to the number of cores they gain what XLA leaves to one core, which is more for a
U-Net than for a VAE; beyond it they show the overhead of devices alone.
"""

import json
import math
import os
import subprocess
import sys

import jax
import numpy as np

from benchmarks import timing
from configs import common, digits_vae
from experiments.build import build
from experiments.tools import EVALUATE, Tools
from vaediff import data, parallel, training

BATCH_SIZES, WIDTHS = (32, 128, 512, 2048), (100, 400, 1600)
LEVELS, DEVICES = (10, 40, 160), (1, 2, 4, 8)
NUM_STEPS = 20


def run(num_turns: int) -> dict[str, list[dict]]:
  """A row for each size, and a table of exponents."""
  calls = {('batch size', size): _training(_vae(batch_size=size)) for size in BATCH_SIZES}
  calls |= {('width', width): _training(_vae(width=width)) for width in WIDTHS}
  calls |= {('T, training', T): _training(_diffusion(T)) for T in LEVELS}
  calls |= {('T, evaluation', T): _evaluation(_diffusion(T)) for T in LEVELS}
  seconds = timing.by_turns(calls, num_turns)
  for name in TRAININGS:
    for devices in DEVICES:
      seconds[f'virtual devices, {name}', devices] = _on_devices(devices, name, num_turns)
  rows = []
  for (name, size), values in seconds.items():
    timed = timing.summarize([1e3 * value for value in values])
    unit = 1 if name == 'T, evaluation' else NUM_STEPS
    rows.append(
      {
        'along': name,
        'size': size,
        'ms': timed.median / unit,
        'lower quartile': timed.lower / unit,
        'upper quartile': timed.upper / unit,
      }
    )
  return {'Time': rows, 'Exponents': _exponents(rows)}


def _exponents(rows: list[dict]) -> list[dict]:
  """Of the power of the size that fits the medians best, in logarithms."""
  found = {}
  for row in rows:
    found.setdefault(row['along'], []).append((math.log(row['size']), math.log(row['ms'])))
  return [
    {'along': name, 'exponent': float(np.polyfit(*np.transpose(points), deg=1)[0])}
    for name, points in found.items()
  ]


def _vae(batch_size: int = 128, width: int = 400) -> dict:
  config = digits_vae.get_config().to_dict()
  config['training']['batch_size'] = batch_size
  for section in ('encoder', 'decoder'):
    config[section]['widths'] = (width,)
  return config


def _diffusion(T: int = 40) -> dict:
  config = common.diffusion('digits').to_dict()
  config['schedule']['T'] = T
  config['denoiser'].update(widths=(16, 32))
  config['training']['batch_size'] = 32
  config['evaluation']['batch_size'] = 64
  return config


def _training(config: dict):
  """A call of NUM_STEPS steps."""
  config['training'].update(steps_per_dispatch=NUM_STEPS, num_steps=NUM_STEPS * 10**5)
  tools = Tools(build(config), config, None, jax.devices())
  dispatches = tools.dispatches(parallel.replicate(tools.initial_state(), tools.devices))
  return lambda: next(dispatches).metrics


def _evaluation(config: dict):
  """A call of the whole bound for one batch."""
  tools = Tools(build(config), config, None, jax.devices())
  split = tools.experiment.dataset.evaluation
  split = data.Split(split.name, split.x[:64], split.label[:64])
  variables = parallel.replicate(training.averaged(tools.initial_state()), tools.devices)
  return lambda: tools.scores(variables, tools.key(EVALUATE), split)


def _on_devices(num_devices: int, name: str, num_turns: int) -> list[float]:
  """Seconds of each turn on so many virtual devices, in a process of its own."""
  done = subprocess.run(
    [sys.executable, '-m', 'benchmarks.growth', name, str(num_turns)],
    env={**os.environ, 'XLA_FLAGS': f'--xla_force_host_platform_device_count={num_devices}'},
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return json.loads(done.stdout)


# What is timed along the number of devices.
TRAININGS = {'VAE': _vae, 'U-Net': _diffusion}

if __name__ == '__main__':
  call = _training(TRAININGS[sys.argv[1]]())
  print(json.dumps(timing.by_turns({'step': call}, int(sys.argv[2]))['step']))
