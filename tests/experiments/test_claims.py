"""Verdicts follow from the numbers, whatever the numbers are."""

import numpy as np
import pytest
from scipy import stats

from experiments import claims
from experiments.claims import FAILS, HOLDS, OPEN, Claim, Evidence


@pytest.mark.parametrize(
  ('effect', 'state'),
  [
    ([1.0, 1.1, 0.9, 1.05, 0.95], HOLDS),
    ([-1.0, -1.1, -0.9, -1.05, -0.95], FAILS),
    ([1.0, -1.0, 0.5, -0.5, 0.1], OPEN),
    (np.array(1e-6), HOLDS),
    (np.array(0.0), FAILS),
    (np.array(-1e-6), FAILS),
  ],
)
def test_the_interval_of_an_effect_decides(effect, state):
  found = claims.evidence('digits', effect)
  assert found.state == state
  assert found.low <= found.value <= found.high


def test_the_interval_is_that_of_student():
  effect = np.random.default_rng(0).normal(size=5)
  found = claims.evidence('', effect)
  expected = stats.t.interval(0.95, 4, effect.mean(), stats.sem(effect))
  np.testing.assert_allclose((found.low, found.high), expected)


@pytest.mark.parametrize(
  ('states', 'verdict'),
  [
    ([HOLDS], 'supported'),
    ([HOLDS, HOLDS], 'supported'),
    ([FAILS, FAILS], 'not supported'),
    ([OPEN], 'undecided'),
    ([HOLDS, FAILS], 'depends: holds with c0, fails with c1'),
    ([FAILS, OPEN, HOLDS, HOLDS], 'depends: holds with c2; c3, fails with c0, open with c1'),
    ([FAILS, OPEN], 'depends: fails with c0, open with c1'),
  ],
)
def test_the_verdict_follows_from_all_conditions(states, verdict):
  found = [Evidence(f'c{i}', 0.0, 0.0, 0.0, state) for i, state in enumerate(states)]
  assert claims.verdict(found) == verdict


def test_a_claim_is_judged_on_every_data_set(monkeypatch):
  claim = Claim('1', 'says', 'effect', 'f', lambda a: {'': a['x'], 'doubled': 2 * a['x']})
  monkeypatch.setattr(claims, 'CLAIMS', (claim,))
  arrays = {'digits': {'x': np.ones(3)}, 'mnist': {'x': -np.ones(3)}}
  (judged,) = claims.judge({'f': arrays})
  assert [e['condition'] for e in judged['evidence']] == [
    'digits',
    'digits, doubled',
    'mnist',
    'mnist, doubled',
  ]
  assert judged['verdict'] == (
    'depends: holds with digits; digits, doubled, fails with mnist; mnist, doubled'
  )
  assert '| says |' in claims.markdown([judged])
