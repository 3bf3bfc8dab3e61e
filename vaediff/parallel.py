"""The one owner of pmap and of the device axis.

Data parallelism: the state is replicated, every device works on its share of the global batch, sums
go over the device axis. The other modules call these functions and never see a pmap, so that a
change of JAX's interface is a change of this file.
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = 'devices'


def pmap(f: Callable, devices: Sequence[jax.Device], in_axes=0, donate_argnums=()) -> Callable:
  """f on every device at once: arguments and results have a leading device axis.

  Where in_axes is None, the argument is one for all devices. Inside f, `sum_over_devices`,
  `gather_over_devices` and `device_index` are at hand. Donated arguments are gone after the call.
  """
  return jax.pmap(
    f, axis_name=AXIS, devices=devices, in_axes=in_axes, donate_argnums=donate_argnums
  )


def sum_over_devices(tree):
  """The sum over the device axis of every array."""
  return jax.lax.psum(tree, AXIS)


def gather_over_devices(tree):
  """Every device's [b, ...] arrays as the global batch [D b, ...], in the order of the devices."""
  return jax.lax.all_gather(tree, AXIS, tiled=True)


def device_index():
  """This device's place on the device axis."""
  return jax.lax.axis_index(AXIS)


def place(tree, devices: Sequence[jax.Device]):
  """Arrays [D, ...], row d of each on device d."""
  sharding = NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec(AXIS))
  return jax.tree.map(lambda x: jax.device_put(x, sharding), tree)


def replicate(tree, devices: Sequence[jax.Device]):
  """A copy of every array on each device: [...] -> [D, ...]."""
  return place(
    jax.tree.map(lambda x: np.broadcast_to(x, (len(devices), *np.shape(x))), tree), devices
  )


def shard(tree, devices: Sequence[jax.Device]):
  """The batch axis split over the devices: [D b, ...] -> [D, b, ...]."""
  num = len(devices)
  return place(
    jax.tree.map(lambda x: x.reshape(num, x.shape[0] // num, *x.shape[1:]), tree), devices
  )


def unreplicate(tree):
  """One copy of a replicated tree, as NumPy arrays of its own: [D, ...] -> [...].

  A copy, not a view: the buffers it comes from may be donated while it is still being written.
  """
  return jax.tree.map(lambda x: np.array(x.addressable_data(0)[0]), tree)


def unshard(tree):
  """The inverse of `shard`, as NumPy arrays: [D, b, ...] -> [D b, ...]."""
  return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), tree)
