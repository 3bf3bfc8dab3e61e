"""From the terms of each example to the numbers of a split: means with their errors and units."""

from collections.abc import Mapping

import numpy as np


def summarize_bound(terms: dict[str, np.ndarray], dimensions: int) -> dict[str, dict]:
  """The negative bound and each of its terms.

  terms: [N] nats for each example, the bound under 'elbo', as of `Method.log_likelihood_bound`.
  dimensions: of one example. Returns {name: {'value', 'stderr', 'unit'}}: 'nll_bound' (-elbo) in
  nats, 'bits_per_dim' = nats / (ln 2 dimensions), and the named terms in nats.
  """
  nll_bound = -terms['elbo'].astype(np.float64)
  values = {'nll_bound': nll_bound, 'bits_per_dim': nll_bound / (np.log(2) * dimensions)}
  values |= {name: term for name, term in terms.items() if name != 'elbo'}
  return summarize(values, {'bits_per_dim': 'bits/dim'})


def summarize(terms: dict[str, np.ndarray], units: Mapping[str, str]) -> dict[str, dict]:
  """Mean and standard error of each term [N] over the examples.

  units: of those that are not in nats. Returns {name: {'value', 'stderr', 'unit'}}. The standard
  error is that of a mean of independent examples; of one example it is NaN.
  """
  return {
    name: {
      'value': float(np.mean(term, dtype=np.float64)),
      'stderr': standard_error(term),
      'unit': units.get(name, 'nats'),
    }
    for name, term in terms.items()
  }


def standard_error(values: np.ndarray) -> float:
  """Of the mean of independent values [N]; NaN for one."""
  if len(values) < 2:
    return float('nan')
  return float(np.std(values, ddof=1, dtype=np.float64) / np.sqrt(len(values)))
