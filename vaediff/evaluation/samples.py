"""Samples of any method, in batches over all devices."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from vaediff import data, parallel, random
from vaediff.methods.base import Method


def make_sampler(method: Method, batch_size: int, devices: Sequence[jax.Device]) -> Callable:
  """`method.sample` in batches of one size, compiled once.

  batch_size: a multiple of the number of devices. Returns sampler(replicated variables, key,
  label [N]) -> x [N, ...] as NumPy. Sample i depends on (key, i, label i) alone.
  """

  def sample(variables, key, label, index):
    return method.sample(variables, random.example_keys(key, 0, index), label)

  compiled = parallel.pmap(sample, devices, in_axes=(0, None, 0, 0))

  def sampler(variables, key, label: np.ndarray) -> np.ndarray:
    parts = []
    for index, valid in data.padded_batches(len(label), batch_size):
      batch = parallel.shard((label[index], index.astype(np.int32)), devices)
      parts.append(parallel.unshard(compiled(variables, key, *batch))[valid])
    return np.concatenate(parts)

  return sampler
