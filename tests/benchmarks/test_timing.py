"""What is made of the seconds that were measured."""

import pytest

from benchmarks import run, timing


def test_a_ratio_is_that_of_the_same_turn():
  slow, fast = [2.0, 4.0, 8.0], [1.0, 2.0, 2.0]
  assert timing.ratio(slow, fast) == timing.Timing(2.0, 2.0, 3.0)


def test_contenders_take_turns_and_the_first_is_not_counted():
  calls = []
  contenders = {name: lambda name=name: calls.append(name) for name in 'ab'}
  seconds = timing.by_turns(contenders, 2)
  assert ''.join(calls) == 'baabba'
  assert [len(values) for values in seconds.values()] == [2, 2]


def test_rates_and_fractions_follow_from_the_seconds(monkeypatch):
  works = {
    name: timing.Work(lambda: None, items, flops)
    for name, items, flops in (('ours', 10, 5e9), ('peer', 10, 5e9))
  }
  measured = {timing.CEILING: [2 * 3072**3 / 1e10] * 2, 'ours': [1.0, 1.0], 'peer': [2.0, 4.0]}
  monkeypatch.setattr(timing, 'by_turns', lambda contenders, num_turns: measured)
  ceiling, ours, peer = timing.compare(works, 2, 'pictures', ['ours'])
  assert ceiling['GFLOP/s'] == pytest.approx(10)
  assert (ours['pictures/s'], ours['GFLOP/s']) == (10, pytest.approx(5))
  assert ours['of the matrix product'] == pytest.approx(0.5)
  assert peer['pictures/s'] == pytest.approx(3.75)
  assert peer['ours is faster by'] == '3 (2.5 to 3.5)'


def test_a_table_has_four_digits():
  assert run.table([{'a': 1.23456, 'b': 'x'}]) == '| a | b |\n| --- | --- |\n| 1.235 | x |\n'
