"""Samples of any method, in batches over all devices."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from vaediff import data, parallel, random
from vaediff.evaluation.split import by_seed


def make_sampler(
  f: Callable, batch_size: int, devices: Sequence[jax.Device], over_seeds: bool = False
) -> Callable:
  """f(variables, keys [N], label [N]) -> tree of [N, ...] in batches of one size, compiled once.

  f: `Method.sample`, or what is made of `Method.trajectory`. batch_size: a multiple of the number
  of devices. Returns sampler(replicated variables, key, label [N]) -> tree of [N, ...], as NumPy.
  Sample i depends on (key, i, label i) alone. over_seeds: see `split.make_map`.
  """

  def sample(variables, key, label, index):
    return f(variables, random.example_keys(key, 0, index), label)

  if over_seeds:
    sample = jax.vmap(sample, in_axes=(0, 0, None, None), out_axes=1)
  compiled = parallel.pmap(sample, devices, in_axes=(0, None, 0, 0))

  def sampler(variables, key, label: np.ndarray):
    parts = []
    for index, valid in data.padded_batches(len(label), batch_size):
      batch = parallel.shard((label[index], index.astype(np.int32)), devices)
      x = parallel.unshard(compiled(variables, key, *batch))
      parts.append(jax.tree.map(lambda leaf, valid=valid: leaf[valid], x))
    x = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return by_seed(x, len(key)) if over_seeds else x

  return sampler
