"""F4: the Kullback-Leibler divergence (lecture section 3.2)."""

import numpy as np

from experiments.figures import style
from vaediff import divergence, gaussian
from vaediff.quadrature import log_normal_density

TITLE = 'The Kullback-Leibler divergence'
CAPTION = (
  'It is not symmetric: of a density with two bumps p, the Gaussian q of least KL(p | q) covers '
  'both, that of least KL(q | p) sits on one. The coin: -1/n times the log-probability that n fair '
  'tosses show a fraction of heads or more nears D, and never is below it; the probability is '
  'e^(-nD) up to a factor that grows as a power of n. KL(N(mean, std^2) | N(0, 1)), in nats, is 0 '
  'at N(0, 1) alone.'
)
RUNS = ()
WEIGHTS, MEANS, VARIANCES = (0.6, 0.4), (-2.0, 2.5), (0.5, 0.8)
FRACTIONS = (0.6, 0.75, 1.0)
TOSSES = 20 * 2 ** np.arange(11)


def compute(study) -> dict[str, np.ndarray]:
  del study
  x = np.linspace(-6, 7, 400)
  densities = np.exp(log_normal_density(x[:, None], np.array(MEANS), np.array(VARIANCES)))
  forward = divergence.forward_fit(WEIGHTS, MEANS, VARIANCES)
  reverse = divergence.reverse_fit(WEIGHTS, MEANS, VARIANCES)
  fits = {'forward': forward, 'reverse': [values[0] for values in reverse]}
  mean, std = np.linspace(-2, 2, 81), np.geomspace(0.25, 4, 81)
  grid = np.meshgrid(mean, std)
  q = gaussian.Normal(*(v.reshape(-1, 1) for v in (grid[0], 2 * np.log(grid[1]))))
  heads = np.array([[round(f * n) for n in TOSSES] for f in FRACTIONS])
  tails = [
    [divergence.coin_log_tail(int(n), int(k)) for n, k in zip(TOSSES, row, strict=True)]
    for row in heads
  ]
  arrays = {
    'x': x,
    'density': densities @ np.array(WEIGHTS),
    'tosses': TOSSES,
    'log_tail': np.array(tails),
    'exponent': np.array([divergence.coin_exponent(f) for f in FRACTIONS]),
    'mean': mean,
    'std': std,
    'kl': np.asarray(gaussian.kl_to_standard_normal(q)).reshape(grid[0].shape),
  }
  for name, (center, variance, kl) in fits.items():
    arrays[f'fit_{name}'] = np.array([center, variance, kl])
  return arrays


def draw(arrays):
  fig, axes = style.panels(1, 3)
  ax = axes[0, 0]
  ax.fill_between(arrays['x'], arrays['density'], color='0.85', label='p')
  for i, (name, label) in enumerate(
    (('forward', 'least KL(p | q)'), ('reverse', 'least KL(q | p)'))
  ):
    mean, variance, _ = arrays[f'fit_{name}']
    density = np.exp(log_normal_density(arrays['x'], mean, variance))
    ax.plot(arrays['x'], density, color=style.COLORS[i], linestyle=style.LINES[i], label=label)
  ax.set(xlabel='x', ylabel='density')
  ax.legend()
  ax = axes[0, 1]
  for i, fraction in enumerate(FRACTIONS):
    rate = -arrays['log_tail'][i] / arrays['tosses']
    style.plot(ax, arrays['tosses'], rate, i, f'{fraction:.0%} heads or more')
    ax.axhline(arrays['exponent'][i], color=style.COLORS[i], linewidth=0.8)
  ax.set(xscale='log', xlabel='tosses n', ylabel='-log P / n, nats (line: D)')
  ax.legend()
  ax = axes[0, 2]
  levels = (0.01, 0.05, 0.2, 0.5, 1, 2, 4, 8)
  lines = ax.contour(
    arrays['mean'], arrays['std'], arrays['kl'], levels, colors='0', linewidths=0.8
  )
  ax.clabel(lines, fmt='%g')
  ax.plot(0, 1, marker='o', color=style.COLORS[0])
  ax.set(yscale='log', xlabel='mean', ylabel='standard deviation', title='KL from N(0, 1), nats')
  return fig
