"""What a training takes on devices that are not here: memory, operations, communication, time.

  python -m experiments.plan --config=FILE [--device_kind=KIND] [--chips=1,8,64,1024]
         [--scaling=strong|weak] [--config.a.b=value ...]

KIND is one of DEVICES, or `here`, the default: this machine, measured first. With strong scaling
the chips share the batch of the config; with weak scaling each has a batch of that size. Without
--chips there is a row for one chip and for all that are here, or of another kind for those above.

The model, of one training step on n chips:

  step        max(operations / peak, bytes / memory bandwidth) + all-reduce + call / steps per call
  all-reduce  level by level of the network, V bytes on k chips: 2 (k - 1) (V / (k W) + hop), the
              ring of Patarasu & Yuan 2009; the next level gets V / k
  efficiency  time on one chip x work / (time on n chips x n)

Operations and bytes are XLA's analysis of the step compiled for the machine at hand, so that bytes
are those of its fusions. Peaks are never reached, and the time to start each operation is not in
the model: what it says of a small model on an accelerator is a lower bound of the time. How far it
is off on this machine is in benchmarks/results/plan.md.
"""

import functools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import config_flags

from experiments import schema, workdir
from experiments.build import build
from experiments.tools import TRAIN, Tools
from vaediff import parallel
from vaediff.errors import InputError
from vaediff.networks import layers

HERE = 'here'
SCALINGS = ('strong', 'weak')
CHIPS_ELSEWHERE = (1, 8, 64, 1024)

_FLAGS = flags.FlagValues()
CONFIG = config_flags.DEFINE_config_file('config', None, 'Config file.', flag_values=_FLAGS)
DEVICE_KIND = flags.DEFINE_string('device_kind', HERE, 'The device.', flag_values=_FLAGS)
CHIPS = flags.DEFINE_list('chips', None, 'Numbers of chips.', flag_values=_FLAGS)
SCALING = flags.DEFINE_enum('scaling', 'strong', SCALINGS, 'The batch.', flag_values=_FLAGS)


class Level(NamedTuple):
  """One level of a network, from the inside out.

  size: how many chips, or groups of the level below, are connected at most. bandwidth: bytes per
  second that a chip sends. hop: seconds from one to the next, at least.
  """

  size: int
  bandwidth: float
  hop: float


class Device(NamedTuple):
  """A kind of chip: peaks of matrix products by compute_dtype, memory, network.

  float32: at JAX's default precision, which is bfloat16 on TPUs and TensorFloat-32 on GPUs
  (docs.jax.dev, "Matmul precision"). memory: bytes. bandwidth: of the memory, bytes per second.
  call: seconds of the host for a call of a compiled function, 0 where nobody says.
  shared: whether the devices are parts of the one for which the numbers are (virtual ones).
  """

  float32: float
  bfloat16: float
  memory: float
  bandwidth: float
  levels: tuple[Level, ...]
  source: str
  call: float = 0.0
  shared: bool = False


# "How to scale your model" (Austin et al. 2025), jax-ml.github.io/scaling-book: the latency of a
# hop (part 3), what a link carries both ways, pods, and 2.5e10 bytes/s of a host's network (part
# 2). Systems of Calculon (Isaev et al. 2023), github.com/calculon-ai/calculon, h100_80g_nvl8.json:
# latencies of NVLink and of the network between nodes.
_ICI_HOP, _NVLINK_HOP, _NETWORK_HOP = 1e-6, 1e-6, 2e-6
_MANY = 2**20


def _tpu(peak: float, memory: float, bandwidth: float, link: float, pod, per_host: int, page: str):
  """A torus: a ring along each axis of the pod, then the network between pods."""
  axes = tuple(Level(size, link, _ICI_HOP) for size in pod)
  network = Level(_MANY, 2.5e10 / per_host, _NETWORK_HOP)
  source = f'docs.cloud.google.com/tpu/docs/{page}; jax-ml.github.io/scaling-book'
  return Device(peak, peak, memory, bandwidth, (*axes, network), source)


def _gpu(tf32: float, bfloat16: float, memory: float, bandwidth: float, link, network, source: str):
  """Nodes of eight on NVLink, with a network card for each GPU."""
  levels = (Level(8, link, _NVLINK_HOP), Level(_MANY, network, _NETWORK_HOP))
  return Device(tf32, bfloat16, memory, bandwidth, levels, f'{source}; github.com/calculon-ai')


_PAGES = 'glennklockwood.com/garden/processors'
DEVICES = {
  'tpu_v4': _tpu(275e12, 32 * 2**30, 1.2e12, 9e10, (16, 16, 16), 4, 'v4'),
  'tpu_v5e': _tpu(197e12, 16e9, 819e9, 1e11, (16, 16), 8, 'v5e'),
  'tpu_v5p': _tpu(459e12, 95e9, 2765e9, 2e11, (16, 20, 28), 4, 'v5p'),
  'tpu_v6e': _tpu(918e12, 32e9, 1.6e12, 2e11, (16, 16), 8, 'v6e'),
  'a100': _gpu(156e12, 312e12, 80e9, 2.039e12, 3e11, 2.5e10, f'{_PAGES}/A100'),
  'h100': _gpu(494.7e12, 989.4e12, 80e9, 3.35e12, 4.5e11, 5e10, f'{_PAGES}/h100'),
  'h200': _gpu(494.7e12, 989.4e12, 141e9, 4.8e12, 4.5e11, 5e10, f'{_PAGES}/h100; aiwiki.ai'),
}


class Program(NamedTuple):
  """One training step of one chip, as XLA has compiled it for this machine; of all seeds together.

  num_params: of one seed. params, optimizer, average, data, temporary: bytes in memory, of which
  the temporary ones are activations and gradients; the data are a whole training split. operations:
  floating point ones. accessed: bytes read and written. all_reduced: bytes that the chips sum.
  """

  num_params: int
  params: float
  optimizer: float
  average: float
  data: float
  temporary: float
  operations: float
  accessed: float
  all_reduced: float

  @property
  def memory(self) -> float:
    """Bytes of a chip."""
    return self.params + self.optimizer + self.average + self.data + self.temporary


class Estimate(NamedTuple):
  """A training on some chips. compute, memory_access, all_reduce, call: seconds of a step each."""

  program: Program
  chips: int
  compute: float
  memory_access: float
  all_reduce: float
  call: float
  num_steps: int
  fits: bool

  @property
  def step(self) -> float:
    """Seconds of a training step."""
    return max(self.compute, self.memory_access) + self.all_reduce + self.call

  @property
  def hours(self) -> float:
    """Hours of the training, without compiling and evaluation."""
    return self.step * self.num_steps / 3600


def estimate(config: dict, device_kind: str, chips: int) -> Estimate:
  """What the training of a config takes on so many chips, which share its batch.

  Raises InputError for a device that is not known, for a batch that does not split, and for more
  chips `here` than there are.
  """
  if device_kind == HERE and chips > len(jax.devices()):
    raise InputError(f'--chips={chips}, and {len(jax.devices())} devices are here; use fewer')
  section = config['training']
  schema.check_divisible('training.batch_size', section['batch_size'], chips)
  program = analyse(config, section['batch_size'] // chips, device_kind)
  return predict(config, program, find_device(device_kind, program.memory), chips)


def predict(config: dict, program: Program, device: Device, chips: int) -> Estimate:
  """The training of a config whose step is this program, on so many of these devices."""
  section = config['training']
  parts = chips if device.shared else 1
  peak = getattr(device, config['compute_dtype'])
  return Estimate(
    program=program,
    chips=chips,
    compute=parts * program.operations / peak,
    memory_access=parts * program.accessed / device.bandwidth,
    all_reduce=ring_seconds(program.all_reduced, chips, device.levels),
    call=device.call / section['steps_per_dispatch'],
    num_steps=section['num_steps'],
    fits=parts * program.memory <= device.memory,
  )


def find_device(kind: str, working_set: float) -> Device:
  """The device of that name, for a program with so many bytes. Raises InputError for another name.

  Those bytes say how much of this machine's caches comes into its bandwidth.
  """
  if kind == HERE:
    return this_machine(2 ** min(max(math.ceil(math.log2(working_set)), 16), 28))
  if kind not in DEVICES:
    raise InputError(f'--device_kind is {kind!r}; it is one of {", ".join([HERE, *DEVICES])}')
  return DEVICES[kind]


def ring_seconds(num_bytes: float, chips: int, levels: Sequence[Level]) -> float:
  """Seconds to sum num_bytes over the chips, level by level of the network.

  On each level a ring scatters the sums and gathers them again, (k - 1) steps each.
  """
  seconds, left = 0.0, chips
  for level in levels:
    size = min(left, level.size)
    seconds += 2 * (size - 1) * (num_bytes / size / level.bandwidth + level.hop)
    num_bytes, left = num_bytes / size, math.ceil(left / size)
  return seconds


def analyse(config: dict, batch_size: int, device_kind: str = HERE) -> Program:
  """The training step of a config with this batch size, compiled for one device of this machine.

  For another kind of device it has the convolutions of that one, which may be of more operations.
  The compiler's analysis takes a loop for one turn of it: this is a call of one step.
  """
  changed = {'batch_size': batch_size, 'steps_per_dispatch': 1}
  text = json.dumps(config | {'training': config['training'] | changed})
  return _analyse(text, None if device_kind == HERE else 'lax')


@functools.cache
def _analyse(text: str, conv: str | None) -> Program:
  config = workdir.checked_config(json.loads(text))
  batch_size = config['training']['batch_size']
  experiment = build(config)
  tools = Tools(experiment, config, Path(), jax.local_devices()[:1])
  split, num_seeds = experiment.dataset.train, len(tools.seeds)
  state = tools.state_shapes()
  indices = np.zeros((1, num_seeds, 1, batch_size), np.int32)
  replicated = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), (state, split.x, split.label)
  )
  arguments = (
    replicated[0],
    np.int32(0),
    tools.key(TRAIN),
    *replicated[1:],
    indices if tools.over_seeds else indices[:, 0],
  )
  with layers.default_conv(conv):
    compiled = tools.dispatch.lower(*arguments).compile()
  cost, params = compiled.cost_analysis(), _num_bytes(state.variables.params)
  # All terms of the loss are summed; the norm of the gradient is of a sum.
  _, metrics, _ = jax.eval_shape(tools.dispatch, *arguments)
  terms = _num_bytes(metrics) - _num_bytes(metrics['grad_norm'])
  # A method with a carry gets those of each example too.
  gathered = batch_size * terms if tools.method.update_carry else 0
  return Program(
    num_params=sum(leaf.size for leaf in jax.tree.leaves(state.variables.params)) // num_seeds,
    params=params + _num_bytes(state.variables.carry),
    optimizer=_num_bytes(state.opt_state),
    average=_num_bytes(state.average),
    data=float(split.x.nbytes + split.label.nbytes),
    temporary=float(compiled.memory_analysis().temp_size_in_bytes),
    operations=float(cost['flops']),
    accessed=float(cost['bytes accessed']),
    all_reduced=params + terms + gathered,
  )


def _num_bytes(tree) -> float:
  return float(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)))


@functools.cache
def this_machine(working_set: int) -> Device:
  """This machine as it is measured, which takes a few seconds; of several processes by all of them.

  Peaks: products of square matrices of 1,024. Bandwidth: reading and writing so many bytes again
  and again. Network: sums over all devices of 4 bytes and of 4 MB. The devices of a CPU are parts
  of one machine.
  """
  devices = parallel.all_devices()
  level = _measured_level(devices, 2**20)
  alone = parallel.on_primary(lambda: _measure_alone(working_set))
  return Device(
    **(alone or dict.fromkeys(('float32', 'bfloat16', 'bandwidth', 'call'), math.nan)),
    memory=_memory(jax.local_devices()[0]),
    levels=(level,),
    source='measured',
    shared=devices[0].platform == 'cpu',
  )


def _measure_alone(working_set: int) -> dict[str, float]:
  """What one process measures of this machine by itself: fields of `Device`."""
  device, square = jax.local_devices()[:1], jnp.ones((1024, 1024))
  product = jax.jit(lambda x: x @ x)
  peaks = {
    dtype: 2 * 1024**3 / _best_seconds(product, square.astype(dtype))
    for dtype in ('float32', 'bfloat16')
  }
  flat, turns = jnp.ones(working_set // 4), 2**28 // working_set
  write = jax.jit(lambda x: jax.lax.fori_loop(0, turns, lambda _, x: x + 1, x))
  one = parallel.pmap(lambda x: x + 1, device)
  return peaks | {
    'bandwidth': 2 * turns * flat.nbytes / _best_seconds(write, flat),
    'call': _best_seconds(one, parallel.replicate(np.ones(1, np.float32), device)),
  }


def _measured_level(devices: Sequence[jax.Device], size: int) -> Level:
  """The network of the devices, from a sum of one float and a sum of `size` of them."""
  num = len(devices)
  if num == 1:
    return Level(1, math.inf, 0.0)
  total = parallel.pmap(parallel.sum_over_devices, devices)
  small, large = (
    _best_seconds(total, parallel.replicate(np.ones(n, np.float32), devices)) for n in (1, size)
  )
  steps = 2 * (num - 1)
  return Level(num, steps * 4 * size / num / max(large - small, 1e-9), small / steps)


def _best_seconds(f: Callable, x, num_turns: int = 10) -> float:
  """The shortest time of f(x), after one call that compiles."""
  jax.block_until_ready(f(x))
  seconds = []
  for _ in range(num_turns):
    start = time.perf_counter()
    jax.block_until_ready(f(x))
    seconds.append(time.perf_counter() - start)
  return min(seconds)


def _memory(device: jax.Device) -> float:
  """Bytes of a device; of a CPU those of the machine."""
  limit = (device.memory_stats() or {}).get('bytes_limit')
  return float(limit or os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'))


def rows(config: dict, device_kind: str, chips: Sequence[int], scaling: str) -> list[dict]:
  """A row for each number of chips. Strong scaling leaves out those among which the batch cannot be
  divided; with weak scaling each chip has a batch of the config's size.
  """
  section, found = config['training'], []
  for num in chips:
    batch_size = section['batch_size'] * (num if scaling == 'weak' else 1)
    if batch_size % num and len(chips) > 1:
      continue
    scaled = config | {'training': section | {'batch_size': batch_size}}
    found.append(estimate(scaled, device_kind, num))
  single = estimate(config, device_kind, 1)
  return [_row(one, single.step * (one.chips if scaling == 'weak' else 1)) for one in found]


def _row(one: Estimate, work: float) -> dict:
  """work: seconds of one chip for what these chips do in a step."""
  return {
    'chips': one.chips,
    'memory of a chip, MB': one.program.memory / 1e6,
    'compute, ms': 1e3 * one.compute,
    'memory access, ms': 1e3 * one.memory_access,
    'all-reduce, ms': 1e3 * one.all_reduce,
    'call, ms': 1e3 * one.call,
    'step, ms': 1e3 * one.step,
    'efficiency': work / (one.step * one.chips),
    'hours': one.hours,
    'fits': 'yes' if one.fits else 'NO',
  }


def main(argv: Sequence[str]) -> int:
  """Prints the plan; returns the exit status."""
  try:
    try:
      _FLAGS(argv)
      config, chips = CONFIG.value.to_dict(), _chips()
    except InputError:
      raise
    except Exception as error:  # a config file is code, which may raise anything
      reason = ' '.join(str(error).split()[:60])
      raise InputError(f'{reason}; usage: python -m experiments.plan --config=FILE') from error
    if min(chips, default=0) < 1:
      raise InputError(f'--chips={",".join(map(str, chips))}; give whole numbers from 1 on')
    schema.check(config)
    program = analyse(config, config['training']['batch_size'], DEVICE_KIND.value)
    device = find_device(DEVICE_KIND.value, program.memory)
    print(f'{DEVICE_KIND.value} ({device.source})\n')
    for name, value in program._asdict().items():
      print(f'{name:12} {value:,.0f}')
    print()
    found = rows(config, DEVICE_KIND.value, chips, SCALING.value)
    lines = [list(found[0]), *[[_text(value) for value in row.values()] for row in found]]
    for line in lines:
      print('  '.join(f'{cell:>{len(name)}}' for cell, name in zip(line, lines[0], strict=True)))
    left_out = sorted(set(chips) - {row['chips'] for row in found})
    if left_out:
      print(
        f'\nnot on {", ".join(map(str, left_out))} chips: a batch of '
        f'{config["training"]["batch_size"]} cannot be divided among them (--scaling=weak)'
      )
  except InputError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  return 0


def _chips() -> list[int]:
  """The numbers of chips that are asked for."""
  if CHIPS.value is not None:
    return [int(text) for text in CHIPS.value]
  return sorted({1, len(jax.devices())}) if DEVICE_KIND.value == HERE else list(CHIPS_ELSEWHERE)


def _text(value) -> str:
  return f'{value:.4g}' if isinstance(value, float) else str(value)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
