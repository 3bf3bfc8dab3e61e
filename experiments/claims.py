"""What the lecture claims, what was measured of it, and what follows.

Each claim has an effect for each condition under which it was measured, which is above 0 where the
claim holds. The verdict follows from the 95% intervals of the effects over the seeds alone.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

from configs.paper import BETAS
from experiments.figures import bound_terms, divergence, feedback, refinement, warmup

Arrays = Mapping[str, np.ndarray]
HOLDS, FAILS, OPEN = 'holds', 'fails', 'open'
SUPPORTED, NOT_SUPPORTED, UNDECIDED = 'supported', 'not supported', 'undecided'
# What is left of the variance between pictures, where every reconstruction counts as the average.
AVERAGE_SHARE = 0.05


class Claim(NamedTuple):
  """A sentence of the lecture that asserts something.

  section: of the lecture. says: the assertion. effect: what is measured, above 0 where it holds,
  with its unit. figure: the name of the figure with the numbers. measure(arrays of that figure) ->
  {condition: effect}: [S] over the seeds, or a scalar where it is exact; the condition is '' where
  there is but one.
  """

  section: str
  says: str
  effect: str
  figure: str
  measure: Callable[[Arrays], dict[str, np.ndarray]]


class Evidence(NamedTuple):
  """One effect with its 95% interval, and whether by it the claim holds, fails or is open."""

  condition: str
  value: float
  low: float
  high: float
  state: str


def _one(effect) -> dict[str, np.ndarray]:
  return {'': effect}


def _chain_growth(a: Arrays) -> dict[str, np.ndarray]:
  """By how much the distance to q(x_t) grows along the chain."""
  distance = a['frechet_distance_denoising_chain']
  middle = distance.shape[1] // 2
  return {
    'from the start to the middle': distance[:, middle] - distance[:, 0],
    'from the middle to the end': distance[:, -1] - distance[:, middle],
  }


def _coin(a: Arrays) -> dict[str, np.ndarray]:
  gap = np.abs(-a['log_tail'] / a['tosses'] / a['exponent'][:, None] - 1)
  return {
    f'{fraction:.0%} heads or more': 0.01 - gap[i, -1]
    for i, fraction in enumerate(divergence.FRACTIONS)
  }


def _smallest_kl(a: Arrays) -> dict[str, np.ndarray]:
  """Of all Gaussians of the grid but N(0, 1)."""
  is_other = (a['std'][:, None] != 1) | (a['mean'] != 0)
  nearest = np.abs(np.log(a['std'])[:, None]) + np.abs(a['mean'])
  return _one(a['kl'][is_other & (nearest > 1e-6)].min())


def _at_beta(name: str, beta: float) -> Callable[[Arrays], np.ndarray]:
  return lambda a: a[name][:, BETAS.index(beta)]


_frechet_least, _frechet_one, _frechet_most = (
  _at_beta('frechet', beta) for beta in (BETAS[0], 1.0, BETAS[-1])
)
_spread_most = _at_beta('spread', BETAS[-1])


def _tricks(name: str) -> Callable[[Arrays], dict[str, np.ndarray]]:
  """By how much the end of plain training is above that with each trick."""
  kinds = dict(zip(warmup.RUNS[1:], warmup.LABELS[1:], strict=True))

  def measure(a: Arrays) -> dict[str, np.ndarray]:
    ends = {run: _last(a[f'{name}_{run}']) for run in warmup.RUNS}
    return {label: ends['vae'] - ends[run] for run, label in kinds.items()}

  return measure


def _last(values: np.ndarray) -> np.ndarray:
  """Of curves [S, E], or of numbers [S]."""
  return values if values.ndim == 1 else values[:, -1]


def _refined(name: str, before: int, afters: tuple[int, ...]):
  """By how much a measure falls from one number of iterations to others."""
  place = refinement.ITERATIONS.index

  def measure(a: Arrays) -> dict[str, np.ndarray]:
    return {
      f'{after} iterations {label}': a[f'{name}_{way}'][:, place(before)]
      - a[f'{name}_{way}'][:, place(after)]
      for way, label in refinement.WAYS.items()
      for after in afters
    }

  return measure


def _growing(measure: Callable) -> Callable:
  """The same, of a measure that is to grow."""
  return lambda a: {condition: -effect for condition, effect in measure(a).items()}


def _exponents(a: Arrays) -> dict[str, np.ndarray]:
  step, kl = np.log(a['step'][-4:]), np.log(a['step_kl'][-4:])
  return _one(np.polyfit(step, kl, 1)[0])


def _variance(name: str, index: int | None = None) -> Callable[[Arrays], dict[str, np.ndarray]]:
  """By how much each variance that is not fixed is better than each fixed one."""
  labels = bound_terms.VARIANCES

  def measure(a: Arrays) -> dict[str, np.ndarray]:
    def values(variance):
      own = a[f'{name}_{variance}']
      return own if index is None else own[:, index]

    return {
      f'{labels[chosen]} against {labels[fixed]}': values(fixed) - values(chosen)
      for chosen in ('interpolated', 'optimal')
      for fixed in ('fixed_small', 'fixed_large')
    }

  return measure


def _noise(name: str, scale: float, other: float) -> Callable[[Arrays], dict[str, np.ndarray]]:
  """By how much a measure is greater at one noise scale than at another."""
  place = feedback.NOISE_SCALES.index
  return lambda a: _one(a[name][:, place(scale)] - a[name][:, place(other)])


CLAIMS = (
  Claim(
    '2.1',
    'Pictures decoded from codes of a distribution that we chose are unlike the data.',
    'Fréchet distance of samples from N(0, I), less that of real pictures',
    'f01_autoencoder',
    lambda a: _one(a['frechet_prior'] - a['frechet_floor']),
  ),
  Claim(
    '2.1',
    'The reason is that we do not know the distribution of the codes.',
    'Fréchet distance of samples from N(0, I), less that from a fitted distribution',
    'f01_autoencoder',
    lambda a: {
      'one Gaussian': a['frechet_prior'] - a['frechet_normal'],
      'mixture of 10': a['frechet_prior'] - a['frechet_mixture'],
    },
  ),
  Claim(
    '2.2',
    'Samples of plain repeated denoising are very blurry.',
    '1 less the sharpness of samples, relative to real pictures',
    'f02_repeated_denoising',
    lambda a: _one(1 - a['sharpness_denoising_chain']),
  ),
  Claim(
    '2.2',
    'Each denoiser goes a little outside the right distribution, and the errors accumulate.',
    'growth of the Fréchet distance of x_t to q(x_t), in pixels',
    'f02_repeated_denoising',
    _chain_growth,
  ),
  Claim(
    '3',
    'Forcing the codes to have a known distribution mends the sampling of an autoencoder.',
    "Fréchet distance of a plain autoencoder's samples from N(0, I), less that of a VAE's",
    'f01_autoencoder',
    lambda a: _one(a['frechet_prior'] - a['frechet_vae']),
  ),
  Claim(
    '3.1',
    'Of the two candidates, uniform and Gaussian, we choose the Gaussian.',
    'negative ELBO with the box, less that with the diagonal Gaussian, nats',
    'f08_posteriors',
    lambda a: _one(a['nll_bound'][:, 2] - a['nll_bound'][:, 0]),
  ),
  Claim(
    '3.1',
    'A network that puts out a square root of the covariance keeps it positive definite.',
    'smallest diagonal entry of the triangular square root over all test pictures',
    'f08_posteriors',
    lambda a: _one(a['smallest_scale']),
  ),
  Claim(
    '3.1',
    'The encoder is to put out a mean and a covariance (a full one is better than a diagonal one).',
    'negative ELBO with a diagonal covariance, less that with a full one, nats',
    'f08_posteriors',
    lambda a: _one(a['nll_bound'][:, 0] - a['nll_bound'][:, 1]),
  ),
  Claim(
    '3.2',
    'The KL divergence is not negative, and 0 only where the two distributions are equal.',
    'smallest KL from N(0, 1) of the other Gaussians of a grid, nats',
    'f04_divergence',
    _smallest_kl,
  ),
  Claim(
    '3.2',
    'It is not symmetric: KL(Q | P) does not like Q to put probability where P puts none.',
    'variance of the Gaussian of least KL(p | q), less that of least KL(q | p)',
    'f04_divergence',
    lambda a: _one(a['fit_forward'][1] - a['fit_reverse'][1]),
  ),
  Claim(
    '3.2',
    'The probability that draws from P look as if from Q is around e^(-n D(Q | P)).',
    '0.01 less the relative difference of -log P / n from D, at the largest n',
    'f04_divergence',
    _coin,
  ),
  Claim(
    '3.3',
    'Where the KL dominates, the code carries nothing and the decoder gives a blurry average.',
    f'{AVERAGE_SHARE} less the relative variance of reconstructions at beta = {BETAS[-1]:g}',
    'f05_balance',
    lambda a: _one(AVERAGE_SHARE - _spread_most(a)),
  ),
  Claim(
    '3.3',
    'Where the reconstruction dominates too much, samples are bad.',
    f'Fréchet distance at beta = {BETAS[0]:g}, less that at beta = 1',
    'f05_balance',
    lambda a: _one(_frechet_least(a) - _frechet_one(a)),
  ),
  Claim(
    '3.3',
    'There is a balance between the two.',
    'Fréchet distance at either end of beta, less that at beta = 1',
    'f05_balance',
    lambda a: {
      f'beta = {BETAS[0]:g}': _frechet_least(a) - _frechet_one(a),
      f'beta = {BETAS[-1]:g}': _frechet_most(a) - _frechet_one(a),
    },
  ),
  Claim(
    '3.4',
    'To let the reconstruction dominate early helps.',
    'negative ELBO of plain training, less that with the trick, nats',
    'f06_warmup',
    _tricks('nll_bound'),
  ),
  Claim(
    '3.4',
    'It does not impair the reconstruction.',
    'reconstruction of plain training, less that with the trick, nats',
    'f06_warmup',
    _tricks('reconstruction'),
  ),
  Claim(
    '3.4',
    'A sample is refined by decoding, encoding and decoding it once or twice.',
    'Fréchet distance before, less that after',
    'f07_refinement',
    _refined('frechet', 0, (1, 2)),
  ),
  Claim(
    '3.4',
    'More often, and it becomes mush.',
    'Fréchet distance after, less that after two iterations',
    'f07_refinement',
    _growing(_refined('frechet', 2, (10, 50))),
  ),
  Claim(
    '3.4',
    'More often, and the samples lose their diversity.',
    'recall after two iterations, less that after',
    'f07_refinement',
    _refined('recall', 2, (10, 50)),
  ),
  Claim(
    '4',
    'If the increments are small enough, the reverse step is Gaussian too.',
    'exponent of the KL to the best Gaussian in the step',
    'f09_small_steps',
    _exponents,
  ),
  Claim(
    '4',
    'More and smaller steps make a better model.',
    'negative bound at T = 5, less that at T = 1000, nats',
    'f09_small_steps',
    lambda a: _one(a['nll_bound'][:, 0] - a['nll_bound'][:, -1]),
  ),
  Claim(
    '4',
    'The mean and the covariance of the reverse step are to be learned: the bound.',
    'negative bound with a fixed variance, less that with another, nats',
    'f10_bound_terms',
    _variance('nll_bound'),
  ),
  Claim(
    '4',
    'The mean and the covariance of the reverse step are to be learned: samples in few steps.',
    f'Fréchet distance at {bound_terms.NUM_STEPS[0]} steps, fixed variance, less that with another',
    'f10_bound_terms',
    _variance('frechet', 0),
  ),
  Claim(
    '4',
    'A loss on distributions, and noise put back, mend repeated denoising.',
    "Fréchet distance of the plain chain's samples, less that of diffusion's",
    'f02_repeated_denoising',
    lambda a: _one(a['frechet_end_denoising_chain'] - a['frechet_end_diffusion']),
  ),
  Claim(
    '4',
    'The noise that is put back is what makes good samples.',
    'Fréchet distance with none put back, less that with all',
    'f11_feedback',
    _noise('frechet', 0.0, 1.0),
  ),
  Claim(
    '4',
    'Denoising is feedback control: the chain comes back from a push.',
    '1 less the share of the push that is left at the end',
    'f11_feedback',
    lambda a: _one(1 - a['kept'][:, feedback.NOISE_SCALES.index(1.0)]),
  ),
  Claim(
    '4',
    'The added noise gives robustness: less of a push is left.',
    'share of the push that is left with no noise put back, less that with all',
    'f11_feedback',
    _noise('kept', 0.0, 1.0),
  ),
  Claim(
    '4',
    'The added noise gives robustness: samples after a push are better.',
    'Fréchet distance after the push with no noise put back, less that with all',
    'f11_feedback',
    _noise('frechet_pushed', 0.0, 1.0),
  ),
)


def evidence(condition: str, effect) -> Evidence:
  """The mean of an effect with its 95% interval over the seeds, by Student's t.

  effect: [S] of S > 1 seeds, or a scalar, which is exact. The claim holds where the interval is
  above 0, fails where it is not above 0 anywhere, and else is open.
  """
  effect = np.asarray(effect, np.float64)
  mean, half = float(np.mean(effect)), 0.0
  if effect.ndim:
    half = stats.t.ppf(0.975, effect.size - 1) * effect.std(ddof=1) / np.sqrt(effect.size)
  low, high = mean - float(half), mean + float(half)
  state = HOLDS if low > 0 else FAILS if high <= 0 else OPEN
  return Evidence(condition, mean, low, high, state)


def verdict(found: list[Evidence]) -> str:
  """What follows from all conditions together.

  'supported' where the claim holds under each, 'not supported' where it fails under each,
  'undecided' where all are open, and else 'depends', with the conditions of each kind.
  """
  states = {e.state for e in found}
  if len(states) == 1:
    return {HOLDS: SUPPORTED, FAILS: NOT_SUPPORTED, OPEN: UNDECIDED}[states.pop()]
  parts = []
  for state in (HOLDS, FAILS, OPEN):
    named = [e.condition for e in found if e.state == state]
    if named:
      parts.append(f'{state} with {"; ".join(named)}')
  return f'depends: {", ".join(parts)}'


def judge(figures: Mapping[str, Mapping[str, Arrays]]) -> list[dict]:
  """Every claim with its evidence and verdict, as claims.json has them.

  figures: {name of the figure: {data set: arrays}}; '' is the data set of mathematics alone.
  """
  judged = []
  for claim in CLAIMS:
    found = [
      evidence(', '.join(filter(None, (dataset, condition))), effect)
      for dataset, arrays in figures[claim.figure].items()
      for condition, effect in claim.measure(arrays).items()
    ]
    judged.append(
      {
        'section': claim.section,
        'claim': claim.says,
        'effect': claim.effect,
        'figure': claim.figure,
        'evidence': [e._asdict() for e in found],
        'verdict': verdict(found),
      }
    )
  return judged


def markdown(judged: list[dict]) -> str:
  """A table of all claims."""
  lines = [
    '| section | the lecture says | measured, above 0 where it holds | effect | verdict |',
    '|---|---|---|---|---|',
  ]
  for entry in judged:
    effects = '<br>'.join(in_words(e) for e in entry['evidence'])
    lines.append(
      f'| {entry["section"]} | {entry["claim"]} | {entry["effect"]} ({entry["figure"]}) | '
      f'{effects} | {entry["verdict"]} |'
    )
  return '\n'.join(lines) + '\n'


def in_words(found: Mapping) -> str:
  """One line of evidence."""
  numbers = f'{found["value"]:.3g} [{found["low"]:.3g}, {found["high"]:.3g}]'
  return f'{found["condition"]}: {numbers}' if found['condition'] else numbers
