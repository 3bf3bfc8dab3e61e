"""Timing by turns: what is compared runs alternately in one process, so that a slow spell of the
machine slows all of it."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax


class Timing(NamedTuple):
  """Seconds of one thing: the median over its turns, and the quartiles."""

  median: float
  lower: float
  upper: float


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


def summarize(values: list[float]) -> Timing:
  """The median and the quartiles."""
  lower, median, upper = statistics.quantiles(values, n=4)
  return Timing(median, lower, upper)


def ratio(numerator: list[float], denominator: list[float]) -> Timing:
  """Of the times of one thing to those of another in the same turns."""
  return summarize([a / b for a, b in zip(numerator, denominator, strict=True)])
