"""A function of examples over a whole split, every example exactly once, on all devices."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from vaediff import data, parallel, random
from vaediff.methods.base import Batch


def make_map(
  f: Callable, observe: Callable, batch_size: int, devices: Sequence[jax.Device]
) -> Callable:
  """f(variables, keys [B], batch) -> {name: [B, ...]} over a split, compiled once.

  observe: see `training.make_dispatch`. batch_size: a multiple of the number of devices; the last
  batch is padded, and what comes of the padding is dropped.

  Returns map(replicated variables, key, split) -> {name: [N, ...]}, NumPy, in the order of the
  split. The key of an example is folded from its index: the values depend neither on batch_size nor
  on the devices. Raises FloatingPointError where a value is not finite, naming the examples.
  """

  def observed(variables, key, x, label, index):
    observe_keys, keys = random.split(random.example_keys(key, 0, index))
    return f(variables, keys, Batch(observe(observe_keys, x), label, index))

  compiled = parallel.pmap(observed, devices, in_axes=(0, None, 0, 0, 0))

  def over_split(variables, key, split: data.Split) -> dict[str, np.ndarray]:
    parts = []
    for index, valid in data.padded_batches(len(split.x), batch_size):
      batch = parallel.shard((split.x[index], split.label[index], index.astype(np.int32)), devices)
      terms = parallel.unshard(compiled(variables, key, *batch))
      parts.append({name: term[valid] for name, term in terms.items()})
    terms = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for name, term in terms.items():
      is_finite = np.isfinite(term.reshape(len(term), -1)).all(axis=1)
      if not is_finite.all():
        wrong = np.flatnonzero(~is_finite)[:10]
        raise FloatingPointError(f'{name} is not finite for {split.name} examples {wrong}')
    return terms

  return over_split
