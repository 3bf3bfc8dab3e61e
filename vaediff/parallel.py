"""The one owner of pmap, of the device axis, and of the processes that share it.

Data parallelism: the state is replicated, every device works on its share of the global batch, sums
go over the device axis. The other modules call these functions and never see a pmap, so that a
change of JAX's interface is a change of this file.

With several processes (hosts), `devices` are those of all of them, in the same order everywhere,
and every process calls the same functions in the same order. What a function here takes and gives
on the host is global; arrays on devices have a leading axis of this process's own devices, written
d below, where D counts all.
"""

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vaediff.errors import InputError

AXIS = 'devices'
# A process that is silent for so long is taken for dead, and the others stop.
HEARTBEAT_SECONDS = 30
_MAX_MESSAGE_BYTES = 4096
# Of one device, where a CPU is divided.
_FEWEST_EXAMPLES = 8

T = TypeVar('T')


def start_processes() -> None:
  """Joins the processes of one run: to be called before anything else asks for devices.

  TPU pods, SLURM, Open MPI and Kubernetes say themselves who takes part; elsewhere the environment
  does: JAX_COORDINATOR_ADDRESS (HOST:PORT of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID.
  Raises InputError where neither does.
  """
  jax.config.update('jax_enable_preemption_service', True)
  variables = [os.environ.get(name) for name in ('JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')]
  try:
    num_processes, process_id = (None if value is None else int(value) for value in variables)
    jax.distributed.initialize(
      num_processes=num_processes,
      process_id=process_id,
      heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
      shutdown_timeout_seconds=HEARTBEAT_SECONDS,
    )
  except ValueError as error:
    raise InputError(
      f'several processes were asked for, and their number is not known ({error}); set '
      'JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID in each, or leave '
      '--distributed out'
    ) from error


def divide_cpu(num_devices: int, batch_sizes: Sequence[int]) -> None:
  """Has JAX take the CPU for several devices: to be called before anything asks for devices.

  XLA computes one convolution or product on all cores, and most other operations on one; devices
  that share a batch do those at the same time.

  num_devices: 0 for one for each core, or for fewer where the batch sizes are not divisible by as
  many, or a batch would leave a device fewer than eight examples. Changes nothing where XLA_FLAGS
  has the number, nor on an accelerator.
  """
  if '--xla_force_host_platform_device_count' in os.environ.get('XLA_FLAGS', ''):
    return
  if num_devices == 0:
    most = max(min(_num_cores(), min(batch_sizes) // _FEWEST_EXAMPLES), 1)
    num_devices = max(n for n in range(1, most + 1) if math.gcd(*batch_sizes) % n == 0)
  jax.config.update('jax_num_cpu_devices', num_devices)


def _num_cores() -> int:
  """The cores that XLA computes on."""
  if 'NPROC' in os.environ:
    return int(os.environ['NPROC'])
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def all_devices() -> list[jax.Device]:
  """The devices of all processes, those of one process next to each other."""
  return [
    device
    for process in range(jax.process_count())
    for device in jax.local_devices(process_index=process)
  ]


def leave_processes() -> None:
  """Waits for the others to come here too, so that none takes another's end for a fault."""
  if not is_alone():
    jax.distributed.shutdown()


def is_alone() -> bool:
  """Whether there is one process only. A process that has joined no others starts no device."""
  return not jax.distributed.is_initialized() or jax.process_count() == 1


def is_primary() -> bool:
  """Whether this is the process that writes what all have in common."""
  return jax.process_index() == 0


def reached_preemption(count: int) -> bool:
  """Whether the scheduler has told one of several processes to stop, at this count for all.

  To be asked by every process with the counts 0, 1, 2, ...; always False for a process alone.
  """
  return not is_alone() and multihost_utils.reached_preemption_sync_point(count)


def on_primary(f: Callable[[], T]) -> T | None:
  """f() on the primary process alone, while the others wait; they get None.

  Raises on every process what f raises, if that is an InputError.
  """
  if is_alone():
    return f()
  result, error = None, None
  if is_primary():
    try:
      result = f()
    except InputError as raised:
      error = raised
  text = '' if error is None else str(error)
  message = np.zeros(_MAX_MESSAGE_BYTES, np.uint8)
  encoded = np.frombuffer(text.encode()[:_MAX_MESSAGE_BYTES], np.uint8)
  message[: len(encoded)] = encoded
  message = np.asarray(multihost_utils.broadcast_one_to_all(message))
  if message.any():
    raise error or InputError(message.tobytes().rstrip(b'\0').decode(errors='ignore'))
  return result


def agree(flag: bool) -> bool:
  """The primary process's flag, on every process."""
  if is_alone():
    return flag
  return bool(multihost_utils.broadcast_one_to_all(np.asarray(flag)))


def check_equal(facts: Mapping[str, str]) -> None:
  """Checks that all processes say the same: facts {what: value}, with the same names for all.

  Raises InputError on every process where they do not, with the first fact that differs.
  """
  if is_alone():
    return
  own = [list(hashlib.sha256(value.encode()).digest()) for value in facts.values()]
  digests = multihost_utils.process_allgather(np.array(own, np.uint8))  # [P, facts, 32]
  differs = (digests != digests[0]).any(axis=-1)
  for i, (name, value) in enumerate(facts.items()):
    others = np.flatnonzero(differs[:, i])
    if others.size:
      raise InputError(
        f'processes {", ".join(map(str, others))} of {len(digests)} have another {name} than '
        f'process 0; this is process {jax.process_index()}, which has {value}; start all with the '
        'same command, code and packages'
      )


def pmap(f: Callable, devices: Sequence[jax.Device], in_axes=0, donate_argnums=()) -> Callable:
  """f on every device at once: arguments and results have a leading device axis [d, ...].

  Where in_axes is None, the argument is one for all devices. Inside f, `sum_over_devices`,
  `gather_over_devices` and `device_index` are at hand. Donated arguments are gone after the call.
  """
  return jax.pmap(
    f, axis_name=AXIS, devices=devices, in_axes=in_axes, donate_argnums=donate_argnums
  )


def sum_over_devices(tree):
  """The sum over the device axis of every array."""
  if jax.lax.axis_size(AXIS) == 1:  # else XLA on CPU copies every array
    return tree
  if jax.default_backend() != 'cpu':
    return jax.lax.psum(tree, AXIS)
  # XLA on CPU sums array by array, and between processes each sum takes its time: those of one type
  # are summed as one. It is put together piece by piece, behind barriers: of a concatenation, and
  # of pieces that are still to be computed, XLA on CPU decides element by element which piece it
  # comes from, and a step takes several times as long.
  leaves, structure = jax.tree.flatten(tree)
  leaves, kinds = [jnp.asarray(leaf) for leaf in leaves], {}
  for i, leaf in enumerate(leaves):
    kinds.setdefault(leaf.dtype, []).append(i)
  for places in kinds.values():
    pieces = [leaves[i].reshape(-1) for i in places]
    ends = np.cumsum([len(piece) for piece in pieces])
    whole = jnp.zeros(ends[-1], pieces[0].dtype)
    whole, pieces = jax.lax.optimization_barrier((whole, pieces))
    for piece, end in zip(pieces, ends, strict=True):
      whole = jax.lax.dynamic_update_slice(whole, piece, (end - len(piece),))
    whole = jax.lax.psum(whole, AXIS)
    for i, part in zip(places, jnp.split(whole, ends[:-1]), strict=True):
      leaves[i] = part.reshape(leaves[i].shape)
  return jax.tree.unflatten(structure, leaves)


def gather_over_devices(tree):
  """Every device's [b, ...] arrays as the global batch [D b, ...], in the order of the devices."""
  return jax.lax.all_gather(tree, AXIS, tiled=True)


def device_index():
  """This device's place on the device axis."""
  return jax.lax.axis_index(AXIS)


def place(tree, devices: Sequence[jax.Device]):
  """Arrays [D, ...], row i of each on device i, as [d, ...]."""
  local = [i for i, device in enumerate(devices) if device.process_index == jax.process_index()]
  mesh = Mesh(np.asarray(devices)[local], (AXIS,))
  sharding = NamedSharding(mesh, PartitionSpec(AXIS))
  # Places are next to each other, so that this is a view.
  own = slice(local[0], local[-1] + 1)
  return jax.tree.map(lambda x: jax.device_put(x[own], sharding), tree)


def replicate(tree, devices: Sequence[jax.Device]):
  """A copy of every array on each device: [...] -> [d, ...]."""
  return place(
    jax.tree.map(lambda x: np.broadcast_to(x, (len(devices), *np.shape(x))), tree), devices
  )


def shard(tree, devices: Sequence[jax.Device]):
  """The batch axis split over the devices: [D b, ...] -> [d, b, ...]."""
  num = len(devices)
  return place(
    jax.tree.map(lambda x: x.reshape(num, x.shape[0] // num, *x.shape[1:]), tree), devices
  )


def unreplicate(tree):
  """One copy of a replicated tree, as NumPy arrays of its own: [d, ...] -> [...].

  A copy, not a view: the buffers it comes from may be donated while it is still being written.
  """
  return jax.tree.map(lambda x: np.array(np.asarray(x.addressable_data(0))[0]), tree)


def unshard(tree):
  """The inverse of `shard`, as NumPy arrays on every process: [d, b, ...] -> [D b, ...]."""
  own = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), tree)
  if is_alone():
    return own
  return multihost_utils.process_allgather(own, tiled=True)
