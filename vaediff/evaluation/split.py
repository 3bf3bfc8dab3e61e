"""A function of examples over a whole split, every example exactly once, on all devices."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from vaediff import data, parallel, random
from vaediff.methods.base import Batch


def make_map(
  f: Callable,
  observe: Callable,
  batch_size: int,
  devices: Sequence[jax.Device],
  over_seeds: bool = False,
) -> Callable:
  """f(variables, keys [B], batch) -> tree of [B, ...] over a split, compiled once.

  observe: see `training.make_dispatch`. batch_size: a multiple of the number of devices; the last
  batch is padded, and what comes of the padding is dropped.

  Returns map(replicated variables, key, split) -> tree of [N, ...], NumPy, in the order of the
  split. The key of an example is folded from its index: the values depend neither on batch_size nor
  on the devices. Raises FloatingPointError where a value is NaN or +inf, naming the examples.

  over_seeds: the variables are [d, S, ...] of S seeds, the keys [S], and a tree comes for each.
  """

  def observed(variables, key, x, label, index):
    observe_keys, keys = random.split(random.example_keys(key, 0, index))
    return f(variables, keys, Batch(observe(observe_keys, x), label, index))

  if over_seeds:
    observed = jax.vmap(observed, in_axes=(0, 0, None, None, None), out_axes=1)
  compiled = parallel.pmap(observed, devices, in_axes=(0, None, 0, 0, 0))

  def over_split(variables, key, split: data.Split):
    parts = []
    for index, valid in data.padded_batches(len(split.x), batch_size):
      batch = parallel.shard((split.x[index], split.label[index], index.astype(np.int32)), devices)
      terms = parallel.unshard(compiled(variables, key, *batch))
      parts.append(jax.tree.map(lambda term, valid=valid: term[valid], terms))
    terms = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    _check_finite(terms, split.name)
    return by_seed(terms, len(key)) if over_seeds else terms

  return over_split


def by_seed(tree, num_seeds: int) -> list:
  """[N, S, ...] of all seeds as a tree of [N, ...] for each."""
  return [
    jax.tree.map(lambda leaf, i=i: np.ascontiguousarray(leaf[:, i]), tree) for i in range(num_seeds)
  ]


def _check_finite(terms, split_name: str) -> None:
  for path, term in jax.tree.leaves_with_path(terms):
    name = jax.tree_util.keystr(path, simple=True)
    # The log-variance of a point is -inf.
    is_sound = np.isfinite(term) | (np.isneginf(term) if name.endswith('log_var') else False)
    is_wrong = ~is_sound.reshape(len(term), -1).all(axis=1)
    if is_wrong.any():
      wrong = np.flatnonzero(is_wrong)[:10]
      raise FloatingPointError(f'{name} is not finite for {split_name} examples {wrong}')
