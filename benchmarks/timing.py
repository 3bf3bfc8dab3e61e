"""Timing by turns: what is compared runs alternately in one process, so that a slow spell of the
machine slows all of it. Beside it runs the machine's ceiling, a product of two square matrices."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

CEILING = 'matrix product'
# Of the matrices: as fast as it gets.
_SIZE, _SIZE_ON_ACCELERATORS = 3072, 16384


class Timing(NamedTuple):
  """Seconds of one thing: the median over its turns, and the quartiles."""

  median: float
  lower: float
  upper: float


class Work(NamedTuple):
  """What a call does, so that its seconds become rates.

  call() -> anything; arrays of JAX in it are waited for.
  items: how many pictures (or other things) it deals with.
  flops: of all of them, see `flops`.
  """

  call: Callable[[], object]
  items: float
  flops: float


def ceiling(dtype=jnp.float32) -> Work:
  """A product of two square matrices; that of float32 is in TF32 on GPUs, as JAX has it."""
  size = _SIZE if jax.default_backend() == 'cpu' else _SIZE_ON_ACCELERATORS
  a = jax.random.normal(jax.random.key(0), (size, size), dtype)
  product = jax.jit(jnp.matmul)
  return Work(lambda: product(a, a), 1, 2 * size**3)


def by_turns(contenders: dict[str, Callable[[], object]], num_turns: int) -> dict[str, list[float]]:
  """Seconds of each call, [num_turns], after one turn that compiles and is not counted.

  What a call returns is waited for. The order is reversed every other turn.
  """
  seconds = {name: [] for name in contenders}
  for turn in range(num_turns + 1):
    names = list(contenders) if turn % 2 else list(reversed(contenders))
    for name in names:
      start = time.perf_counter()
      jax.block_until_ready(contenders[name]())
      if turn:
        seconds[name].append(time.perf_counter() - start)
  return seconds


def compare(
  works: Mapping[str, Work],
  num_turns: int,
  unit: str,
  ours: Sequence[str] = (),
  dtype=jnp.float32,
) -> list:
  """One row for each work and one for the ceiling, in dtype, timed by turns.

  A row has the rate in `unit` per second, with its quartiles, GFLOP/s, the fraction of the ceiling,
  and for each work in `ours` how many times faster it is, with quartiles. Fractions and ratios are
  medians over those of the same turn.
  """
  works = {CEILING: ceiling(dtype), **works}
  seconds = by_turns({name: work.call for name, work in works.items()}, num_turns)
  each = {name: [s / works[name].items for s in values] for name, values in seconds.items()}
  peak = [s / works[CEILING].flops for s in seconds[CEILING]]
  rows = []
  for name, work in works.items():
    rate = summarize([1 / s for s in each[name]])
    fraction = ratio(peak, [s / work.flops for s in seconds[name]])
    row = {'contender': name, f'{unit}/s': '', 'quartiles': ''}
    if name != CEILING:
      row[f'{unit}/s'], row['quartiles'] = rate.median, f'{rate.lower:.4g} to {rate.upper:.4g}'
    row['GFLOP/s'] = 1e-9 * work.flops / summarize(seconds[name]).median
    row['of the matrix product'] = fraction.median
    for own in ours:
      row[f'{own} is faster by'] = ''
      if name not in (CEILING, *ours):
        row[f'{own} is faster by'] = '{:.3g} ({:.3g} to {:.3g})'.format(
          *ratio(each[name], each[own])
        )
    rows.append(row)
  return rows


def summarize(values: list[float]) -> Timing:
  """The median and the quartiles."""
  lower, median, upper = statistics.quantiles(values, n=4, method='inclusive')
  return Timing(median, lower, upper)


def ratio(numerator: list[float], denominator: list[float]) -> Timing:
  """Of the times of one thing to those of another in the same turns."""
  return summarize([a / b for a, b in zip(numerator, denominator, strict=True)])
