"""How figures look: colours that the colour-blind tell apart, lines that grey paper does."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from scipy import stats

from vaediff import reporting

# Okabe & Ito 2008, in an order in which neighbours differ in lightness too.
COLORS = ('#0072B2', '#E69F00', '#009E73', '#CC79A7', '#000000', '#56B4E9', '#D55E00')
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')
LINES = ('-', '--', '-.', ':', (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
WIDTH_INCHES, HEIGHT_INCHES = 3.4, 2.6
SETTINGS = {
  'figure.dpi': 120,
  'savefig.dpi': 120,
  'font.size': 8,
  'axes.titlesize': 9,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'legend.frameon': False,
  'lines.linewidth': 1.2,
  'lines.markersize': 4,
  'pdf.fonttype': 42,
}
matplotlib.use('Agg')
plt.rcParams.update(SETTINGS)


def panels(rows: int, columns: int, width: float = WIDTH_INCHES, height: float = HEIGHT_INCHES):
  """A figure and its axes [rows, columns]; width and height are those of a panel, in inches."""
  return plt.subplots(
    rows,
    columns,
    figsize=(width * columns, height * rows),
    layout='constrained',
    squeeze=False,
  )


def half_width(values: np.ndarray, axis: int = 0) -> np.ndarray:
  """Half the 95% confidence interval of a mean over seeds, by Student's t."""
  num = values.shape[axis]
  return stats.t.ppf(0.975, num - 1) * values.std(axis=axis, ddof=1) / np.sqrt(num)


def line(ax, x, values: np.ndarray, index: int, label: str | None = None, marker=True) -> None:
  """The mean of values [S, X] over the seeds, with its 95% band; the index chooses the looks."""
  style = {'color': COLORS[index], 'linestyle': LINES[index]}
  mean, half = values.mean(axis=0), half_width(values)
  ax.plot(x, mean, label=label, marker=MARKERS[index] if marker else None, **style)
  ax.fill_between(x, mean - half, mean + half, color=COLORS[index], alpha=0.2, linewidth=0)


def points(ax, labels: Sequence[str], values: np.ndarray) -> None:
  """The mean of values [S, K] over the seeds with its 95% interval, and the seeds themselves."""
  place = np.arange(len(labels))
  ax.errorbar(
    place, values.mean(axis=0), half_width(values), fmt='o', color=COLORS[0], capsize=3, zorder=3
  )
  for of_seed in values:
    ax.plot(place + 0.15, of_seed, linestyle='', marker='.', color='0.6', markersize=3)
  ax.set_xticks(place, labels, rotation=20, ha='right')
  ax.set_xlim(-0.5, len(labels) - 0.5)


def floor(ax, value: float) -> None:
  """What real pictures get, as a line."""
  ax.axhline(value, color='0.4', linewidth=0.8, linestyle=(0, (1, 2)), label='real pictures')


def pictures(ax, x: np.ndarray, num_columns: int, title: str = '') -> None:
  """Pictures [N, H, W, C] on levels 0..255, as a grid."""
  ax.imshow(reporting.grid(x, 256, num_columns), interpolation='nearest')
  ax.set_title(title)
  ax.set_axis_off()


def scatter_classes(ax, codes: np.ndarray, label: np.ndarray) -> None:
  """Codes [N, 2], each as the digit of its class."""
  for value in np.unique(label):
    own = codes[label == value]
    ax.scatter(
      *own.T,
      s=14,
      marker=f'${value}$',
      color=COLORS[value % len(COLORS)],
      alpha=0.6,
      linewidth=0,
      rasterized=True,
    )


def plot(ax, x, y, index: int, label: str | None = None) -> None:
  """A line of exact values; the index chooses the looks."""
  style = {'color': COLORS[index], 'linestyle': LINES[index], 'marker': MARKERS[index]}
  ax.plot(x, y, label=label, **style)
