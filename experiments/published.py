"""Published numbers beside ours: single numbers, and orders of several that a paper has found."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from configs import burda, mnist_diffusion
from experiments import claims
from experiments.claims import Arrays


class Number(NamedTuple):
  """A number of a paper, and the run that has ours.

  source: the paper, with its table. what: the model. metric: of results.json. value: in the paper.
  run: of RUNS. differs: in what the protocols differ.
  """

  source: str
  what: str
  metric: str
  value: float
  run: str
  differs: str


class Order(NamedTuple):
  """What a paper has found to be better than what else, lower being better.

  source: the paper, with its table. what: is compared. published: {label: value}. figure: the one
  that has ours. measure(arrays of that figure) -> {label: [S] over the seeds}, the same labels.
  pairs: (better, worse) labels that the paper's conclusion rests on. differs: in what the
  protocols differ.
  """

  source: str
  what: str
  published: dict[str, float]
  figure: str
  measure: Callable[[Arrays], dict[str, np.ndarray]]
  pairs: tuple[tuple[str, str], ...]
  differs: str


# Nats, by the names of configs/burda.py. It has those of 50 draws too, for an accelerator.
_BURDA = {'vae_1': 86.76, 'vae_5': 86.47, 'iwae_5': 85.54}

# {name of a run: its config}.
RUNS: dict[str, Callable[[], ConfigDict]] = {
  **{f'burda_{name}': lambda name=name: burda.get_config(name) for name in _BURDA},
  'mnist_diffusion': mnist_diffusion.get_config,
}

NUMBERS = (
  *(
    Number(
      'Burda et al. 2016, Table 1',
      f'{name.partition("_")[0].upper()}, k = {name.partition("_")[2]}, one stochastic layer',
      'nll_bound',
      value,
      f'burda_{name}',
      f'{burda.PASSES} passes in batches of 100 with cosine decay, not 3,280 in batches of 20 with '
      'eight learning rates; no output bias at the logit of the mean picture',
    )
    for name, value in _BURDA.items()
  ),
  Number(
    'Katharopoulos et al. 2020, Table 1',
    'autoregressive transformer with softmax attention, 8-bit MNIST',
    'bits_per_dim',
    0.621,
    'mnist_diffusion',
    'ours is a bound, of a diffusion model with 18 minutes of training on two CPU cores',
  ),
)


def _few_steps(a: Arrays) -> dict[str, np.ndarray]:
  found = {}
  for label, eta in (('DDIM', 0), ('DDIM, eta 1', 1)):
    for i, calls in enumerate(a[f'calls_{label}']):
      found[f'eta = {eta}, {calls} steps'] = a[f'frechet_{label}'][:, i]
  return found


_FID_OF_STEPS = {
  'eta = 0, 10 steps': 13.36,
  'eta = 1, 10 steps': 41.07,
  'eta = 0, 20 steps': 6.84,
  'eta = 1, 20 steps': 18.36,
  'eta = 0, 50 steps': 4.67,
  'eta = 1, 50 steps': 8.01,
}

ORDERS = (
  Order(
    'Ghosh et al. 2020, Table 1 (MNIST)',
    'FID of samples of autoencoders',
    {
      'autoencoder, one Gaussian': 58.73,
      'VAE, N(0, I)': 19.21,
      'autoencoder, mixture of 10': 10.66,
    },
    'f01_autoencoder',
    lambda a: {
      'autoencoder, one Gaussian': a['frechet_normal'],
      'VAE, N(0, I)': a['frechet_vae'],
      'autoencoder, mixture of 10': a['frechet_mixture'],
    },
    (
      ('autoencoder, mixture of 10', 'VAE, N(0, I)'),
      ('VAE, N(0, I)', 'autoencoder, one Gaussian'),
    ),
    'Fréchet distance in the features of our own classifier, not Inception; multi-layer '
    'perceptrons, not convolutions',
  ),
  Order(
    'Song et al. 2021, Table 1 (CIFAR-10)',
    'FID of DDIM in few steps',
    _FID_OF_STEPS,
    'f12_samplers',
    lambda a: {label: _few_steps(a)[label] for label in _FID_OF_STEPS},
    tuple((f'eta = 0, {steps} steps', f'eta = 1, {steps} steps') for steps in (10, 20, 50)),
    'Fréchet distance in the features of our own classifier, on other data; a schedule linear in '
    'the log-SNR, T = 250',
  ),
)


def compare(folder: Path, figures: Mapping[str, Mapping[str, Arrays]]) -> dict[str, list[dict]]:
  """The published numbers with ours, as results.json has them.

  folder: of the runs; a number whose run is not there is left out. figures: {name of the figure:
  {data set: arrays}}.
  """
  return {
    'numbers': [_number(folder, number) for number in NUMBERS if _is_there(folder, number)],
    'orders': [
      _order(order, dataset, arrays)
      for order in ORDERS
      for dataset, arrays in figures.get(order.figure, {}).items()
    ],
  }


def _results(folder: Path, number: Number) -> Path:
  return folder / number.run / 'results.json'


def _is_there(folder: Path, number: Number) -> bool:
  return _results(folder, number).exists()


def _number(folder: Path, number: Number) -> dict:
  results = json.loads(_results(folder, number).read_text())
  metric = results['metrics'][number.metric]
  active = results['metrics'].get('active_units')
  return {
    'source': number.source,
    'what': number.what,
    'published': number.value,
    'ours': metric['value'],
    'stderr': metric['stderr'],
    'unit': metric['unit'],
    'active_units': active and active['value'],
    'differs': number.differs,
  }


def _order(order: Order, dataset: str, arrays: Arrays) -> dict:
  ours = order.measure(arrays)
  found = [claims.evidence(f'{a} < {b}', ours[b] - ours[a]) for a, b in order.pairs]
  return {
    'source': order.source,
    'what': order.what,
    'dataset': dataset,
    'rows': [
      {'what': label, 'published': value, **_mean(ours[label])}
      for label, value in order.published.items()
    ],
    'evidence': [e._asdict() for e in found],
    'verdict': claims.verdict(found),
    'differs': order.differs,
  }


def _mean(values: np.ndarray) -> dict[str, float]:
  """Over the seeds, with its standard error."""
  return {
    'ours': float(np.mean(values)),
    'stderr': float(np.std(values, ddof=1) / np.sqrt(len(values))),
  }


class Table(NamedTuple):
  """What results.md and the page show: a heading, a grid of words, a remark below it."""

  heading: str
  header: Sequence[str]
  rows: Sequence[Sequence[str]]
  remark: str


def tables(compared: Mapping[str, Sequence[Mapping]]) -> list[Table]:
  """The tables of what `compare` has found."""
  found = []
  if compared['numbers']:
    header = ('paper', 'model', 'published', 'ours', 'standard error', 'unit', 'active units')
    rows = [_number_in_words(entry) for entry in compared['numbers']]
    found.append(Table('Numbers', (*header, 'what differs'), rows, ''))
  for entry in compared['orders']:
    rows = [
      (row['what'], f'{row["published"]:g}', f'{row["ours"]:.3g}', f'{row["stderr"]:.2g}')
      for row in entry['rows']
    ]
    found.append(
      Table(
        f'{entry["source"]}: {entry["what"]}; ours on {entry["dataset"]}',
        ('', 'published', 'ours', 'standard error'),
        rows,
        f'The order of the paper: {entry["verdict"]}. By how much, with 95% intervals over the '
        f'seeds: {"; ".join(map(claims.in_words, entry["evidence"]))}. What differs: '
        f'{entry["differs"]}.',
      )
    )
  return found


def _number_in_words(entry: Mapping) -> tuple[str, ...]:
  active = entry['active_units']
  return (
    entry['source'],
    entry['what'],
    f'{entry["published"]:g}',
    f'{entry["ours"]:.4g}',
    f'{entry["stderr"]:.2g}',
    entry['unit'],
    '-' if active is None else f'{active:g}',
    entry['differs'],
  )


def markdown(compared: Mapping[str, Sequence[Mapping]]) -> str:
  """results.md."""
  return '\n'.join(
    '\n'.join(
      [
        f'## {table.heading}',
        '',
        f'| {" | ".join(table.header)} |',
        f'|{"---|" * len(table.header)}',
        *(f'| {" | ".join(row)} |' for row in table.rows),
        '',
        *([table.remark, ''] if table.remark else []),
      ]
    )
    for table in tables(compared)
  )
