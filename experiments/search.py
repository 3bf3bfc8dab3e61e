"""The rounds of a sweep: all its trials at once, or by Optuna, which learns from those before.

The tree-structured Parzen estimator (Bergstra et al. 2011, "Algorithms for hyper-parameter
optimization") proposes the draws of a round from the results of the rounds before. It is a function
of these and of random_seed alone, so that a sweep that is started again proposes the same draws.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from experiments import trials
from experiments.trials import Sweep, Trial
from vaediff.errors import InputError


def rounds(sweep: Sweep, collected: Mapping[str, Mapping[str, float]]) -> Iterator[list[Trial]]:
  """The trials, round by round.

  collected: {name: {key: number}} of the trials that are done, to be filled between the rounds. A
  draw counts by the mean of the first key over its seeds, and not at all where one of them failed.
  Raises InputError where Optuna is not installed.
  """
  if not sweep.search:
    yield trials.expand(sweep)
    return
  try:
    import optuna
  except ImportError as error:
    raise InputError("search takes Optuna: pip install 'vaediff[search]'") from error
  optuna.logging.set_verbosity(optuna.logging.WARNING)
  sampler = optuna.samplers.TPESampler(seed=sweep.random_seed, constant_liar=True)
  direction = {'min': 'minimize', 'max': 'maximize'}[sweep.best]
  study = optuna.create_study(direction=direction, sampler=sampler)
  space = {
    field: optuna.distributions.FloatDistribution(low, high, log=name == 'log_uniform')
    for field, (name, low, high) in sweep.random.items()
  }
  for first in range(0, sweep.num_random, sweep.search):
    size = min(sweep.search, sweep.num_random - first)
    proposed = [study.ask(space) for _ in range(size)]
    expanded = [
      [trials.make(sweep, proposal.params, seed) for seed in sweep.seeds] for proposal in proposed
    ]
    yield [trial for of_draw in expanded for trial in of_draw]
    for proposal, of_draw in zip(proposed, expanded, strict=True):
      if all(trial.name in collected for trial in of_draw):
        numbers = [collected[trial.name][sweep.collect[0]] for trial in of_draw]
        study.tell(proposal, float(np.mean(numbers)))
      else:
        study.tell(proposal, state=optuna.trial.TrialState.FAIL)
