"""What the lecture claims, what was measured of it, and what follows.

Each claim has an effect for each condition under which it was measured, which is above 0 where the
claim holds. The verdict follows from the 95% intervals of the effects over the seeds alone.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from configs.paper import BETAS
from experiments.figures import (
  autoencoder,
  bound_terms,
  divergence,
  feedback,
  refinement,
  small_steps,
  style,
  warmup,
)
from vaediff import reporting

Arrays = Mapping[str, np.ndarray]
HOLDS, FAILS, OPEN = 'holds', 'fails', 'open'
SUPPORTED, NOT_SUPPORTED, DEPENDS = 'supported', 'not supported', 'depends'
# What counts as nothing, of the variance between pictures, and as no loss, of a reconstruction.
NOTHING, NO_LOSS = 0.05, 0.01
# What counts as rounding in float64.
ROUNDING = 1e-12
# Of the table of all claims.
HEADER = ('section', 'the lecture says', 'measured, above 0 where it holds', 'effect', 'verdict')


class Claim(NamedTuple):
  """A sentence of the lecture that asserts something.

  section: of the lecture. says: the assertion. effect: what is measured, above 0 where it holds,
  with its unit. figure: the name of the figure with the numbers. measure(arrays of that figure) ->
  {condition: effect}: [S] over the seeds, or a scalar where it is exact, and then the same for all
  data sets; the condition is '' where there is but one.
  """

  section: str
  says: str
  effect: str
  figure: str
  measure: Callable[[Arrays], dict[str, np.ndarray]]


class Evidence(NamedTuple):
  """One effect with its 95% interval, and whether by it the claim holds, fails or is open.

  num_seeds: that it is the mean over; 1 where it is exact.
  """

  condition: str
  num_seeds: int
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


def _unknown_codes(a: Arrays) -> dict[str, np.ndarray]:
  """The share of what is bad in samples that a fitted distribution of the codes mends, less 0.5."""
  bad = a['frechet_prior'] - a['frechet_reconstructed']
  return {
    label: (a['frechet_prior'] - a[f'frechet_{codes}']) / bad - 0.5
    for codes, label in autoencoder.CODES.items()
    if codes != 'prior'
  }


def _coin(a: Arrays) -> dict[str, np.ndarray]:
  """By how much n D and -log P come nearer each other, relative to n and then at all."""
  log_factor = a['log_tail'] + a['tosses'] * a['exponent'][:, None]
  nearer = {
    'the exponent': np.abs(log_factor / a['tosses']),
    'the probability itself': np.abs(log_factor),
  }
  return {
    f'{what}, {fraction:.0%} heads or more': gap[i, 0] - gap[i, -1]
    for what, gap in nearer.items()
    for i, fraction in enumerate(divergence.FRACTIONS)
    if fraction < 1  # of heads alone e^(-nD) is the probability
  }


def _smallest_kl(a: Arrays) -> dict[str, np.ndarray]:
  """Of all Gaussians of the grid but N(0, 1)."""
  is_other = np.abs(np.log(a['std'])[:, None]) + np.abs(a['mean']) > 1e-6
  return _one(a['kl'][is_other].min())


def _collapse(a: Arrays) -> dict[str, np.ndarray]:
  """What is left at the largest weight on the KL, against what counts as nothing."""
  return {
    'active units': NOTHING - _at_most('active_units')(a),
    'variance between reconstructions': NOTHING - _at_most('spread')(a),
    'distance from the average picture': NOTHING - _at_most('from_average')(a),
    'sharpness': 1 - _at_most('sharpness')(a),
  }


def _at_beta(name: str, beta: float) -> Callable[[Arrays], np.ndarray]:
  return lambda a: a[name][:, BETAS.index(beta)]


def _at_most(name: str) -> Callable[[Arrays], np.ndarray]:
  return _at_beta(name, BETAS[-1])


_frechet_least, _frechet_one, _frechet_most = (
  _at_beta('frechet', beta) for beta in (BETAS[0], 1.0, BETAS[-1])
)


def _tricks(name: str, allowed: float = 0.0) -> Callable[[Arrays], dict[str, np.ndarray]]:
  """By how much the end of plain training is above that with each trick, and what is allowed.

  allowed: of the end of plain training, as a share.
  """
  kinds = dict(zip(warmup.RUNS[1:], warmup.LABELS[1:], strict=True))

  def measure(a: Arrays) -> dict[str, np.ndarray]:
    ends = {run: _last(a[f'{name}_{run}']) for run in warmup.RUNS}
    return {label: (1 + allowed) * ends['vae'] - ends[run] for run, label in kinds.items()}

  return measure


def _last(values: np.ndarray) -> np.ndarray:
  """Of curves [S, E], or of numbers [S]."""
  return values if values.ndim == 1 else values[:, -1]


def _refined(name: str, before: int, afters: tuple[int, ...]):
  """By how much a measure falls from one number of iterations to others."""
  place = refinement.ITERATIONS.index

  def measure(a: Arrays) -> dict[str, np.ndarray]:
    return {
      f'{after} time{"s" if after > 1 else ""} {label}': a[f'{name}_{way}'][:, place(before)]
      - a[f'{name}_{way}'][:, place(after)]
      for way, label in refinement.WAYS.items()
      for after in afters
    }

  return measure


def _growing(measure: Callable) -> Callable:
  """The same, of a measure that is to grow."""
  return lambda a: {condition: -effect for condition, effect in measure(a).items()}


def _exponent(a: Arrays) -> dict[str, np.ndarray]:
  """Of the KL in the step, above that with which the sum over all steps would stay what it is."""
  step, kl = np.log(a['step'][-4:]), np.log(a['step_kl'][-4:])
  return _one(np.polyfit(step, kl, 1)[0] - 1)


def _more_steps(a: Arrays) -> dict[str, np.ndarray]:
  """By how much the bound falls from each number of steps to the next."""
  fall = -np.diff(a['nll_bound'])
  return {
    f'T = {fewer} and {more}': fall[:, i]
    for i, (fewer, more) in enumerate(itertools.pairwise(small_steps.SCHEDULES))
  }


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


def _without_noise(values: np.ndarray) -> np.ndarray:
  """By how much a measure [S, noise scales] is greater with no noise than with all of it."""
  place = feedback.NOISE_SCALES.index
  return values[:, place(0.0)] - values[:, place(1.0)]


def _kept(a: Arrays) -> dict[str, np.ndarray]:
  """By how much more of a push is left with no noise than with all, on the way and at the end."""
  none, all_of_it = a['distance_0'], a['distance_1']
  middle = none.shape[1] // 2
  return {
    'half-way from the push to the end': none[:, middle] - all_of_it[:, middle],
    'at the end': none[:, -1] - all_of_it[:, -1],
  }


CLAIMS = (
  Claim(
    '2.1',
    'Pictures decoded from codes of a distribution that we chose are unlike the data.',
    'Fréchet distance of samples from N(0, I), less that of reconstructions of pictures',
    'f01_autoencoder',
    lambda a: _one(a['frechet_prior'] - a['frechet_reconstructed']),
  ),
  Claim(
    '2.1',
    'The reason is that we do not know the distribution of the codes.',
    'share of that difference which vanishes where a distribution is fitted to the codes, less 0.5',
    'f01_autoencoder',
    _unknown_codes,
  ),
  Claim(
    '2.2',
    'After many steps of noise the picture looks Gaussian.',
    '(1% of the negative bound) less (its part KL(q(x_T | x_0) | N(0, I))), nats',
    'f10_bound_terms',
    lambda a: _one(0.01 * a['nll_bound_fixed_small'] - a['prior_kl']),
  ),
  Claim(
    '2.2',
    'Samples of plain repeated denoising are very blurry.',
    '1 less the sharpness of samples, relative to real pictures',
    'f02_repeated_denoising',
    lambda a: _one(1 - a['sharpness_denoising_chain'][:, -1]),
  ),
  Claim(
    '2.2',
    'Each denoiser goes a little outside the right distribution, and the errors accumulate.',
    'growth of the Fréchet distance of x_t to q(x_t), between pixels, in variances of q(x_t)',
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
    'negative ELBO with the box, less that with the diagonal Gaussian, both with warm-up, nats',
    'f08_posteriors',
    lambda a: _one(a['nll_bound'][:, 2] - a['nll_bound'][:, 0]),
  ),
  Claim(
    '3.1',
    'A network that puts out a square root of the covariance keeps it positive definite.',
    'smallest eigenvalue of the covariance over all test pictures, in float32',
    'f08_posteriors',
    lambda a: _one(a['smallest_eigenvalue']),
  ),
  Claim(
    '3.1',
    'The encoder is to put out a mean and a covariance (a full one is better than a diagonal one).',
    'negative ELBO with a diagonal covariance, less that with a full one, with warm-up, nats',
    'f08_posteriors',
    lambda a: {
      'trained': a['nll_bound'][:, 0] - a['nll_bound'][:, 1],
      'probabilistic PCA, exactly, at the smallest angle': a['gap'][0],
    },
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
    'gap between -log P and n D at the smallest n, less that at the largest, nats (exponent: by n)',
    'f04_divergence',
    _coin,
  ),
  Claim(
    '3.3',
    'Where the KL dominates, the code carries nothing and the decoder gives a blurry average.',
    f'at beta = {BETAS[-1]:g}: {NOTHING} less what is left, as a share of that between pictures '
    '(units: their number; sharpness: 1 less that of reconstructions)',
    'f05_balance',
    _collapse,
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
    'To let the reconstruction dominate early helps: more of the code is used.',
    'active units with the trick, less those of plain training',
    'f06_warmup',
    lambda a: {label: -effect for label, effect in _tricks('active_units')(a).items()},
  ),
  Claim(
    '3.4',
    'It does not impair the reconstruction.',
    f'{1 + NO_LOSS} times the reconstruction of plain training, less that with the trick, nats',
    'f06_warmup',
    _tricks('reconstruction', NO_LOSS),
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
    'More often, and it becomes mush: unlike the data.',
    'Fréchet distance after, less that after two iterations',
    'f07_refinement',
    _growing(_refined('frechet', 2, (10, 50))),
  ),
  Claim(
    '3.4',
    'More often, and it becomes mush: blurred.',
    'sharpness after two iterations, less that after',
    'f07_refinement',
    _refined('sharpness', 2, (10, 50)),
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
    'X_t given X_0 is Gaussian: small steps of noise make one large one.',
    '1e-12 less the largest error of mean and variance at 1,000 levels, in float64',
    'f09_small_steps',
    lambda a: _one(ROUNDING - a['marginal_error']),
  ),
  Claim(
    '4',
    'If the increments are small enough, the reverse step is Gaussian too.',
    'exponent of the KL to the best Gaussian in the step, less 1',
    'f09_small_steps',
    _exponent,
  ),
  Claim(
    '4',
    'More and smaller steps make a better model.',
    'negative bound of one model with fewer steps less that with more, nats',
    'f09_small_steps',
    _more_steps,
  ),
  Claim(
    '4',
    'X_{t-1} given X_t and X_0 is Gaussian.',
    "1e-12 less the largest difference of its density from Bayes' rule on a grid, in float64",
    'f09_small_steps',
    lambda a: _one(ROUNDING - a['posterior_error']),
  ),
  Claim(
    '4',
    'The covariance of the reverse step is to be learned, not the mean alone: the bound.',
    'negative bound with a fixed variance, less that with another, nats',
    'f10_bound_terms',
    _variance('nll_bound'),
  ),
  Claim(
    '4',
    'The covariance of the reverse step is to be learned, not the mean alone: few steps.',
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
    'Fréchet distance of the same chain with none put back, less that with all',
    'f11_feedback',
    lambda a: _one(_without_noise(a['frechet'])),
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
    _kept,
  ),
  Claim(
    '4',
    'The added noise gives robustness: of samples to a push.',
    'Fréchet distance after a push, and what the push adds to it (less than nothing where the push '
    'stands in for noise that is missing), with no noise put back, less that with all',
    'f11_feedback',
    lambda a: {
      'after it': _without_noise(a['frechet_pushed']),
      'what it adds': _without_noise(a['frechet_pushed'] - a['frechet']),
    },
  ),
)


def evidence(condition: str, effect) -> Evidence:
  """The mean of an effect with its 95% interval over the seeds, by Student's t.

  effect: [S] of S > 1 seeds, or a scalar, which is exact. The claim holds where the interval is
  above 0, fails where it is not above 0 anywhere, and else is open. Raises ValueError for one seed,
  and for an effect that is not finite: no interval, no verdict.
  """
  effect = np.asarray(effect, np.float64)
  if (effect.ndim and effect.size < 2) or not np.all(np.isfinite(effect)):
    raise ValueError(f'{condition or "the effect"}: {effect}; it takes two seeds or more, finite')
  mean, half = float(np.mean(effect)), 0.0
  if effect.ndim:
    half = float(style.half_width(effect))
  low, high = mean - half, mean + half
  state = HOLDS if low > 0 else FAILS if high <= 0 else OPEN
  return Evidence(condition, effect.size, mean, low, high, state)


def verdict(found: list[Evidence]) -> str:
  """What follows from all conditions together.

  'supported' where the claim holds under each, 'not supported' where it holds under none, and else
  'depends'; the conditions of each kind, where there are several kinds.
  """
  states = {e.state for e in found}
  kind = SUPPORTED if states == {HOLDS} else DEPENDS if HOLDS in states else NOT_SUPPORTED
  if len(states) == 1:
    return kind
  parts = []
  for state in (HOLDS, FAILS, OPEN):
    named = [e.condition for e in found if e.state == state]
    if named:
      parts.append(f'{state} with {"; ".join(named)}')
  return f'{kind}: {", ".join(parts)}'


def judge(figures: Mapping[str, Mapping[str, Arrays]]) -> list[dict]:
  """Every claim with its evidence and verdict, as claims.json has them.

  figures: {name of the figure: {data set: arrays}}; '' is the data set of mathematics alone. Claims
  of a figure that is not there are left out.
  """
  judged = []
  for claim in CLAIMS:
    effects = {}
    for dataset, arrays in figures.get(claim.figure, {}).items():
      for condition, effect in claim.measure(arrays).items():
        of_data = dataset if np.ndim(effect) else ''
        effects[', '.join(filter(None, (of_data, condition)))] = effect
    found = [evidence(condition, effect) for condition, effect in effects.items()]
    if found:
      judged.append(entry(claim, found))
  return judged


def entry(claim: Claim, found: list[Evidence]) -> dict:
  """A claim with its evidence and what follows from it, as claims.json has it."""
  return {
    'section': claim.section,
    'claim': claim.says,
    'effect': claim.effect,
    'figure': claim.figure,
    'evidence': [e._asdict() for e in found],
    'verdict': verdict(found),
  }


def markdown(judged: list[dict]) -> str:
  """A table of all claims."""
  return reporting.table(
    HEADER,
    [
      (
        entry['section'],
        entry['claim'],
        f'{entry["effect"]} ({entry["figure"]})',
        '<br>'.join(map(in_words, entry['evidence'])),
        entry['verdict'],
      )
      for entry in judged
    ],
  )


def in_words(found: Mapping) -> str:
  """One line of evidence."""
  numbers = f'{found["value"]:.3g} [{found["low"]:.3g}, {found["high"]:.3g}]'
  return f'{found["condition"]}: {numbers}' if found['condition'] else numbers


def computed_at(commits: Mapping[str, Mapping[str, Sequence[str]]]) -> str:
  """Behind "computed at commit".

  commits: {data set: those of the 'figures', and of the 'runs' that they show}, '' for mathematics.
  """
  parts = []
  for dataset, found in commits.items():
    figures, runs = (' and '.join(found[kind]) for kind in ('figures', 'runs'))
    parts.append(f'{figures}{runs and f", of runs at commit {runs}"} ({dataset or "mathematics"})')
  return '; '.join(parts)
