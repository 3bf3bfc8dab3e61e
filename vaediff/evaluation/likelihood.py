"""Log-likelihood bounds over a whole split, every example exactly once."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from vaediff import data, parallel, random
from vaediff.methods.base import Batch, Method


def make_bound(
  method: Method, observe: Callable, batch_size: int, devices: Sequence[jax.Device]
) -> Callable:
  """The evaluation of `method.log_likelihood_bound` on a split, compiled once.

  observe: see `training.make_dispatch`. batch_size: a multiple of the number of devices; the last
  batch is padded, and what comes of the padding is dropped.

  Returns bound(replicated variables, key, split) -> {'elbo': [N], named terms: [N]}, NumPy float64,
  in nats, in the order of the split. The key of an example is folded from its index: the values
  depend neither on batch_size nor on the devices. Raises FloatingPointError where a term is not
  finite, naming the examples.
  """

  def bound(variables, key, x, label, index):
    observe_keys, bound_keys = random.split(random.example_keys(key, 0, index))
    batch = Batch(observe(observe_keys, x), label, index)
    return method.log_likelihood_bound(variables, bound_keys, batch)

  compiled = parallel.pmap(bound, devices, in_axes=(0, None, 0, 0, 0))

  def evaluate(variables, key, split: data.Split) -> dict[str, np.ndarray]:
    parts = []
    for index, valid in data.padded_batches(len(split.x), batch_size):
      batch = parallel.shard((split.x[index], split.label[index], index.astype(np.int32)), devices)
      terms = parallel.unshard(compiled(variables, key, *batch))
      parts.append({name: term[valid].astype(np.float64) for name, term in terms.items()})
    terms = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for name, term in terms.items():
      if not np.all(np.isfinite(term)):
        wrong = np.flatnonzero(~np.isfinite(term))
        raise FloatingPointError(f'{name} is not finite for {split.name} examples {wrong[:10]}')
    return terms

  return evaluate


def summarize(terms: dict[str, np.ndarray], dimensions: int) -> dict[str, dict]:
  """Mean and standard error over the examples, of the negative bound and each of its terms.

  terms: per-example nats as from `make_bound`. dimensions: of one example. Returns {name: {'value',
  'stderr', 'unit'}}: 'nll_bound' (-elbo) in nats, 'bits_per_dim' = nats / (ln 2 dimensions), and
  the named terms in nats. The standard error is that of a mean of independent examples.
  """
  nll_bound = -terms['elbo']
  values = {
    'nll_bound': (nll_bound, 'nats'),
    'bits_per_dim': (nll_bound / (np.log(2) * dimensions), 'bits/dim'),
    **{name: (term, 'nats') for name, term in terms.items() if name != 'elbo'},
  }
  return {
    name: {
      'value': float(np.mean(value)),
      'stderr': float(np.std(value, ddof=1) / np.sqrt(len(value))),
      'unit': unit,
    }
    for name, (value, unit) in values.items()
  }
