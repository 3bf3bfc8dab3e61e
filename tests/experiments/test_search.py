"""Optuna's rounds: they learn, and are the same again when the sweep is started again."""

import sys

import numpy as np
import pytest

from configs import digits_vae
from experiments import search, trials
from vaediff.errors import InputError

KEY, RATE = 'metrics.nll_bound.value', 'optimizer.learning_rate'


def sweep(**fields) -> trials.Sweep:
  base = {'config': digits_vae.get_config('tiny'), 'collect': (KEY,)}
  random = {RATE: ('log_uniform', 1e-5, 1e-1)}
  return trials.check({**base, 'random': random, 'num_random': 40, 'search': 4} | fields)


def run(sweep: trials.Sweep, broken=lambda trial: False) -> list[list[trials.Trial]]:
  """All rounds; a trial's number is the squared distance of its rate from 1e-3, in decades."""
  collected, found = {}, []
  for trials_of_round in search.rounds(sweep, collected):
    found.append(trials_of_round)
    for trial in trials_of_round:
      distance = np.log10(trial.setting[RATE]) + 3
      if not broken(trial):
        collected[trial.name] = {KEY: distance**2 * (1 if sweep.best == 'min' else -1)}
  return found


@pytest.mark.parametrize('best', ['min', 'max'])
def test_later_rounds_are_nearer_to_the_best(best):
  found = run(sweep(best=best))
  assert [len(trials_of_round) for trials_of_round in found] == [4] * 10
  decades = [[abs(np.log10(t.setting[RATE]) + 3) for t in of_round] for of_round in found]
  assert np.mean(decades[-4:]) < 0.5  # of draws that do not learn it is 1, of the first ten too


def test_the_same_rounds_come_again():
  assert run(sweep()) == run(sweep())
  assert run(sweep()) != run(sweep(random_seed=1))


def test_every_draw_has_all_seeds_and_one_that_fails_is_not_counted():
  found = run(sweep(seeds=(0, 1), num_random=6), broken=lambda trial: trial.config['seed'] == 1)
  assert [len(trials_of_round) for trials_of_round in found] == [8, 4]


def test_without_search_there_is_one_round():
  base = sweep(search=0)
  assert list(search.rounds(base, {})) == [trials.expand(base)]


def test_other_axes_are_refused():
  with pytest.raises(InputError, match='search is 4; it takes axes in random, and none elsewhere'):
    sweep(grid={'kl_weight.beta': (1.0, 2.0)})


def test_without_optuna_the_line_says_how_to_get_it(monkeypatch):
  monkeypatch.setitem(sys.modules, 'optuna', None)
  with pytest.raises(InputError, match=r"search takes Optuna: pip install 'vaediff\[search\]'"):
    run(sweep())
