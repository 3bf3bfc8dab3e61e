"""The time of a training step as experiments.plan predicts it for this machine, and as it is.

Virtual devices and processes share the cores of the machine: more of them are no faster, and what
is predicted is what they lose. Each setting has processes of its own, which measure the machine,
then train; the median of the steps is compared with the prediction.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import time

import jax

from configs import digits_vae, variants
from experiments import compilation_cache, plan
from experiments.build import build
from experiments.tools import Tools
from vaediff import parallel

# Processes, and devices of each.
SETTINGS = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 1))
STEPS_PER_DISPATCH = 10


def wide_vae():
  """A VAE of large products: two layers of 2,048 on either side."""
  config = digits_vae.get_config().unlock()
  config.encoder.widths = config.decoder.widths = (2048, 2048)
  return config


CONFIGS = {
  'digits_vae': digits_vae.get_config,
  'digits_vae, 2,048 wide': wide_vae,
  'diffusion on digits, MLP': lambda: variants.get_config('diffusion'),
}


def run(num_turns: int) -> dict[str, list[dict]]:
  """A row for each setting and config: milliseconds of a step, predicted and measured."""
  rows = [row for setting in SETTINGS for row in _in_processes(*setting, num_turns)]
  return {'Predicted and measured': rows}


def _in_processes(num_processes: int, num_devices: int, num_turns: int) -> list[dict]:
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  environment = os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={num_devices}',
  }
  started = []
  for process_id in range(num_processes):
    if num_processes > 1:
      environment |= {
        'JAX_COORDINATOR_ADDRESS': address,
        'JAX_NUM_PROCESSES': str(num_processes),
        'JAX_PROCESS_ID': str(process_id),
      }
    command = [sys.executable, '-m', 'benchmarks.plan', str(num_processes), str(num_turns)]
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
    started.append(subprocess.Popen(command, env=environment, text=True, **pipes))
  # Analysed here: JAX lowers no program of one device where there are several processes.
  chips = num_processes * num_devices
  programs = json.dumps(
    [_analyse(get_config().to_dict(), chips) for get_config in CONFIGS.values()]
  )
  for process in started:
    process.stdin.write(programs)
    process.stdin.close()
  outputs = [process.stdout.read() for process in started]
  for process in started:
    if process.wait():
      raise RuntimeError(f'{process.args} ended with status {process.returncode}')
  return json.loads(outputs[0].splitlines()[-1])  # behind what Gloo says


def _analyse(config: dict, chips: int) -> dict:
  return plan.analyse(config, config['training']['batch_size'] // chips)._asdict()


def _measure(num_processes: int, num_turns: int, programs: list[dict]) -> list[dict]:
  """The rows of this process's setting. programs: of each config, as analysed."""
  if num_processes > 1:
    parallel.start_processes()
  rows = []
  for (name, get_config), analysed in zip(CONFIGS.items(), programs, strict=True):
    config = get_config().to_dict()
    config['training'] |= {'steps_per_dispatch': STEPS_PER_DISPATCH}
    program = plan.Program(**analysed)
    device = plan.find_device(plan.HERE, program.memory)
    predicted = plan.predict(config, program, device, len(jax.devices()))
    measured = statistics.median(_step_seconds(config, num_turns))
    rows.append(
      {
        'processes x devices': f'{num_processes} x {len(jax.local_devices())}',
        'step': name,
        'compute, ms': 1e3 * predicted.compute,
        'memory access, ms': 1e3 * predicted.memory_access,
        'all-reduce, ms': 1e3 * predicted.all_reduce,
        'predicted, ms': 1e3 * predicted.step,
        'measured, ms': 1e3 * measured,
        'measured / predicted': measured / predicted.step,
      }
    )
  return rows


def _step_seconds(config: dict, num_turns: int) -> list[float]:
  """Of a step in each of so many calls, after one that compiles."""
  tools = Tools(build(config), config, None, parallel.all_devices())
  state = parallel.replicate(tools.initial_state(), tools.devices)
  dispatches = tools.dispatches(state, num_steps=(num_turns + 1) * STEPS_PER_DISPATCH)
  jax.block_until_ready(next(dispatches).metrics)
  seconds, start = [], time.perf_counter()
  for done in dispatches:
    jax.block_until_ready(done.metrics)
    now = time.perf_counter()
    seconds.append((now - start) / STEPS_PER_DISPATCH)
    start = now
  return seconds


if __name__ == '__main__':
  compilation_cache.enable()
  print(json.dumps(_measure(*map(int, sys.argv[1:]), json.load(sys.stdin))))
