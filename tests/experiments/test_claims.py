"""Verdicts follow from the numbers, whatever the numbers are."""

import re

import numpy as np
import pytest
from scipy import optimize, special, stats

from experiments import claims
from experiments.claims import FAILS, HOLDS, OPEN, Claim, Evidence
from experiments.figures import divergence, small_steps, warmup


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
    ([OPEN], 'not supported'),
    ([HOLDS, FAILS], 'depends: holds with c0, fails with c1'),
    ([FAILS, OPEN, HOLDS, HOLDS], 'depends: holds with c2; c3, fails with c0, open with c1'),
    ([FAILS, OPEN], 'not supported: fails with c0, open with c1'),
    ([HOLDS, OPEN], 'depends: holds with c0, open with c1'),
  ],
)
def test_the_verdict_follows_from_all_conditions(states, verdict):
  found = [Evidence(f'c{i}', 5, 0.0, 0.0, 0.0, state) for i, state in enumerate(states)]
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


def test_an_exact_effect_is_judged_once(monkeypatch):
  claim = Claim('1', 'says', 'effect', 'f', lambda a: {'': a['x'], 'in theory': np.float64(1)})
  monkeypatch.setattr(claims, 'CLAIMS', (claim,))
  (judged,) = claims.judge({'f': {'digits': {'x': np.ones(3)}, 'mnist': {'x': np.ones(3)}}})
  assert [e['condition'] for e in judged['evidence']] == ['digits', 'in theory', 'mnist']
  assert [e['num_seeds'] for e in judged['evidence']] == [3, 1, 3]


@pytest.mark.parametrize('effect', [[1.0], [1.0, np.nan], np.nan, [np.inf, 1.0]])
def test_no_verdict_without_an_interval(effect):
  with pytest.raises(ValueError, match='it takes two seeds or more, finite'):
    claims.evidence('digits', effect)


def test_every_row_of_the_table_has_its_cells():
  entry = {
    'section': '1',
    'claim': 'KL(q | p)',
    'effect': 'D(q | p)',
    'figure': 'f',
    'verdict': 'v',
  }
  for row in claims.markdown([entry | {'evidence': []}]).splitlines():
    assert len(re.split(r'(?<!\\)\|', row)) == len(claims.HEADER) + 2


def of_seeds(*values):
  """[3, len(values)] over three seeds that hardly differ."""
  return np.array(values, float) + np.array([[-1e-6], [0.0], [1e-6]])


def one(value):
  return of_seeds(value)[:, 0]


STEP = 2.0 ** -np.arange(5)
VARIANCES = ('fixed_small', 'fixed_large', 'interpolated', 'optimal')
# {figure: (arrays by which the lecture is right in all, arrays by which it is wrong in all)}.
WORLDS = {
  'f01_autoencoder': [
    {f'frechet_{name}': one(value) for name, value in world.items()}
    for world in (
      {'prior': 9, 'reconstructed': 1, 'normal': 4, 'mixture': 2, 'vae': 3},
      {'prior': 1, 'reconstructed': 2, 'normal': 0.8, 'mixture': 0.8, 'vae': 3},
    )
  ],
  'f02_repeated_denoising': [
    {
      'frechet_distance_denoising_chain': of_seeds(0, sign, 2 * sign),
      'sharpness_denoising_chain': of_seeds(9, 9, 1 - sign / 2),
      'frechet_end_denoising_chain': one(5 + sign),
      'frechet_end_diffusion': one(5 - sign),
    }
    for sign in (1, -1)
  ],
  'f05_balance': [
    {
      'frechet': of_seeds(*[5 + sign] * 3, 5, *[5 + sign] * 3),
      **{
        name: of_seeds(*[1] * 6, at_most)
        for name in ('active_units', 'spread', 'from_average', 'sharpness')
      },
    }
    for sign, at_most in ((1, 0), (-1, 2))
  ],
  'f06_warmup': [
    {
      **{f'nll_bound_{name}': one(50 if name == 'vae' else 50 - sign) for name in warmup.RUNS},
      **{
        f'reconstruction_{name}': of_seeds(0, 50 if name == 'vae' else 50 - sign)
        for name in warmup.RUNS
      },
      **{
        f'active_units_{name}': of_seeds(0, 5 if name == 'vae' else 5 + sign)
        for name in warmup.RUNS
      },
    }
    for sign in (1, -1)
  ],
  'f07_refinement': [
    {f'{name}_{way}': values for way in ('mean', 'sample') for name, values in world.items()}
    for world in (
      {
        'frechet': of_seeds(5, 4, 3, 4, 5, 6),
        'recall': of_seeds(9, 9, 5, 4, 3, 2),
        'sharpness': of_seeds(9, 9, 5, 4, 3, 2),
      },
      {
        'frechet': of_seeds(1, 2, 3, 2, 1, 1),
        'recall': of_seeds(1, 1, 2, 3, 4, 5),
        'sharpness': of_seeds(1, 1, 2, 3, 4, 5),
      },
    )
  ],
  'f08_posteriors': [
    {
      'nll_bound': of_seeds(5, 5 - sign, 5 + sign),
      'gap': np.array([sign, sign]),
      'smallest_eigenvalue': one(sign),
    }
    for sign in (1, -1)
  ],
  'f09_small_steps': [
    {
      'step': STEP,
      'step_kl': STEP**power,
      'nll_bound': of_seeds(*(-sign * i for i in range(len(small_steps.SCHEDULES)))),
      'marginal_error': np.array(error),
      'posterior_error': np.array(error),
    }
    for power, sign, error in ((3, 1, 1e-15), (0.5, -1, 1e-3))
  ],
  'f10_bound_terms': [
    {
      **{
        f'{name}_{variance}': values(5 if 'fixed' in variance else 5 - sign)
        for variance in VARIANCES
        for name, values in (('nll_bound', one), ('frechet', lambda value: of_seeds(value, 0)))
      },
      'prior_kl': one(prior_kl),
    }
    for sign, prior_kl in ((1, 0.01), (-1, 1.0))
  ],
  'f11_feedback': [
    {
      'frechet': of_seeds(5 + sign, 5, 5, 5, 5, 5),
      'frechet_pushed': of_seeds(5 + 3 * sign, 5, 5, 5, 5, 5),
      'kept': of_seeds(*[1 - sign / 2] * 6),
      'distance_0': of_seeds(1, 0.5 + sign / 4, 0.5 + sign / 4),
      'distance_1': of_seeds(1, 0.5, 0.5),
    }
    for sign in (1, -1)
  ],
}


def test_every_claim_but_those_of_mathematics_has_its_worlds():
  assert {claim.figure for claim in claims.CLAIMS} == {*WORLDS, 'f04_divergence'}


@pytest.mark.parametrize('claim', [claim for claim in claims.CLAIMS if claim.figure in WORLDS])
def test_a_claim_holds_and_fails_as_its_numbers_say(claim, monkeypatch):
  monkeypatch.setattr(claims, 'CLAIMS', (claim,))
  for arrays, expected in zip(WORLDS[claim.figure], (HOLDS, FAILS), strict=True):
    (judged,) = claims.judge({claim.figure: {'digits': arrays}})
    assert {e['state'] for e in judged['evidence']} == {expected}


def test_the_effects_of_the_claims_of_mathematics(monkeypatch):
  """They are those of closed forms, which are written out here once more."""
  own = [claim for claim in claims.CLAIMS if claim.figure == 'f04_divergence']
  monkeypatch.setattr(claims, 'CLAIMS', own)
  judged = claims.judge({'f04_divergence': {'': divergence.compute(None)}})
  smallest, asymmetry, coin = ([e['value'] for e in claim['evidence']] for claim in judged)

  mean, std = np.meshgrid(np.linspace(-2, 2, 81), np.geomspace(0.25, 4, 81))
  kl = 0.5 * (mean**2 + std**2 - 1) - np.log(std)
  assert smallest == pytest.approx([np.sort(kl.reshape(-1))[1]], rel=1e-5)

  # Least KL(p | q) has the moments of p. Least KL(q | p) is found from the heavier bump.
  weights, means, variances = divergence.WEIGHTS, divergence.MEANS, divergence.VARIANCES
  first, second = weights @ np.transpose([means, np.square(means) + variances])
  x = np.linspace(-12, 12, 4001)
  p = stats.norm.pdf(x[:, None], means, np.sqrt(variances)) @ weights

  def kl_to_p(at):
    q = stats.norm(at[0], np.exp(at[1]))
    return np.trapezoid(q.pdf(x) * (q.logpdf(x) - np.log(p)), x)

  reverse = np.exp(2 * optimize.minimize(kl_to_p, [means[0], 0.5 * np.log(variances[0])]).x[1])
  assert asymmetry == pytest.approx([second - first**2 - reverse], rel=1e-5)

  few, many = divergence.TOSSES[0], divergence.TOSSES[-1]

  def gap(n, fraction):
    """Between -log P and n D."""
    heads = np.arange(round(fraction * n), n + 1)
    log_probability = special.logsumexp(stats.binom.logpmf(heads, n, 0.5))
    exponent = fraction * np.log(2 * fraction) + (1 - fraction) * np.log(2 * (1 - fraction))
    return -log_probability - n * exponent

  expected = [gap(few, f) / few - gap(many, f) / many for f in (0.6, 0.75)]
  expected += [gap(few, f) - gap(many, f) for f in (0.6, 0.75)]
  assert coin == pytest.approx(expected, rel=1e-5)
