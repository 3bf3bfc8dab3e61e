"""The table of a sweep: means over seeds, their standard errors, the order of the settings."""

import csv
import json

import numpy as np
import pytest

from configs import digits_vae
from experiments import summary, trials
from vaediff.errors import InputError

KEY = 'metrics.nll_bound.value'
# {(beta, seed): number} of the trials that are done.
NUMBERS = {(1.0, 0): 5.0, (1.0, 1): 7.0, (1.0, 2): 9.0, (2.0, 0): 4.0, (2.0, 2): 5.0, (3.0, 1): 1.0}


def summarize(best: str = 'min', numbers=None) -> dict:
  sweep = trials.check(
    {
      'config': digits_vae.get_config('tiny'),
      'grid': {'kl_weight.beta': (1, 2, 3, 4)},
      'seeds': (0, 1, 2),
      'collect': (KEY,),
      'best': best,
    }
  )
  expanded, numbers = trials.expand(sweep), NUMBERS if numbers is None else numbers
  places = {t.name: (t.setting['kl_weight.beta'], t.config['seed']) for t in expanded}
  collected = {name: {KEY: numbers[p]} for name, p in places.items() if p in numbers}
  states = {name: 'done' if name in collected else 'failed' for name in places}
  errors = {name: 'why' for name in places if name not in collected}
  return summary.summarize(sweep, expanded, states, collected, errors)


def test_means_and_standard_errors_over_seeds():
  rows = {row['setting']['kl_weight.beta']: row for row in summarize()['settings']}
  for weight in (1.0, 2.0):
    values = [number for (beta, _), number in NUMBERS.items() if beta == weight]
    metric = rows[weight]['metrics'][KEY]
    assert metric['value'] == np.mean(values)
    assert metric['stderr'] == pytest.approx(np.std(values, ddof=1) / np.sqrt(len(values)))
  assert rows[3.0]['metrics'][KEY] == {'value': 1.0, 'stderr': None}
  assert (rows[1.0]['num_done'], rows[2.0]['num_done'], rows[4.0]['num_done']) == (3, 2, 0)
  assert rows[4.0]['metrics'] == {}


@pytest.mark.parametrize(('best', 'order'), [('min', [3, 2, 1, 4]), ('max', [1, 2, 3, 4])])
def test_the_best_setting_comes_first_and_what_is_not_done_last(best, order):
  found = [row['setting']['kl_weight.beta'] for row in summarize(best)['settings']]
  assert found == order


def test_the_files(tmp_path):
  table = summarize()
  summary.write(tmp_path, table)
  assert json.loads((tmp_path / 'sweep.json').read_text()) == json.loads(json.dumps(table))
  assert (tmp_path / 'sweep.md').read_text().splitlines() == [
    '| kl_weight.beta | seeds | nll_bound |',
    '| --- | --- | --- |',
    '| 3 | 1 of 3 | 1.000 |',
    '| 2 | 2 of 3 | 4.500 +- 0.500 |',
    '| 1 | 3 | 7.000 +- 1.155 |',
    '| 4 | 0 of 3 |  |',
  ]
  rows = list(csv.DictReader((tmp_path / 'sweep.csv').open()))
  assert [float(row['nll_bound']) for row in rows[:3]] == [1.0, 4.5, 7.0]
  assert float(rows[2]['nll_bound_stderr']) == 2 / np.sqrt(3)
  assert [row['seeds'] for row in rows] == ['1', '2', '3', '0']


def test_nothing_is_done():
  assert '| 1 | 0 of 3 |  |' in summary.markdown(summarize(numbers={}))


def test_a_number_that_is_not_there_is_named(tmp_path):
  results = {'metrics': {'nll_bound': {'value': 3.5, 'unit': 'nats'}}, 'step': 2}
  (tmp_path / 'results.json').write_text(json.dumps(results))
  assert summary.collect(tmp_path, [KEY, 'step']) == {KEY: 3.5, 'step': 2}
  with pytest.raises(InputError, match=r'did you mean metrics\.nll_bound\.value'):
    summary.collect(tmp_path, ['metrics.nll_bond.value'])
  with pytest.raises(InputError, match=r'has no number metrics\.nll_bound\.unit'):
    summary.collect(tmp_path, ['metrics.nll_bound.unit'])
