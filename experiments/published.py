"""Published numbers beside ours: single numbers, and orders of several that a paper has found."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from configs import burda, mnist_diffusion_hour, mnist_diffusion_large
from experiments import claims, workdir
from experiments.claims import Arrays
from vaediff import reporting
from vaediff.evaluation.likelihood import standard_error


class Number(NamedTuple):
  """A number of a paper, and the run that has ours.

  source: the paper, with its table. what: the model. metric: of results.json. value: in the paper.
  active_units: in the paper, None where it has none. run: of RUNS. differs: in what the protocols
  differ.
  """

  source: str
  what: str
  metric: str
  value: float
  active_units: int | None
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


# Nats and active units, by the names of configs/burda.py. An IWAE with one draw is the VAE.
_BURDA = {
  'vae_1': (86.76, 19),
  'vae_5': (86.47, 20),
  'vae_50': (86.35, 20),
  'iwae_5': (85.54, 22),
  'iwae_50': (84.78, 25),
}

# {name of a run: its config}, and which of them are work for an accelerator.
RUNS: dict[str, Callable[[], ConfigDict]] = {
  **{f'burda_{name}': lambda name=name: burda.get_config(name) for name in _BURDA},
  'mnist_diffusion': mnist_diffusion_hour.get_config,
  'mnist_diffusion_large': mnist_diffusion_large.get_config,
}
ON_ACCELERATORS = ('burda_vae_50', 'burda_iwae_50', 'mnist_diffusion_large')


def _bound(run: str) -> str:
  training = RUNS[run]().training
  return (
    f'ours is a bound, of a diffusion model with {training.num_steps:,} training steps in batches '
    f'of {training.batch_size}'
  )


_FLOWS = f'{_bound("mnist_diffusion")}; flows pay for uniform dequantisation'
_TRANSFORMER = 'autoregressive transformer with softmax attention, 8-bit MNIST'
# Bits per dimension of MNIST with 8 bits.
_MNIST = (
  ('Grathwohl et al. 2019, Table 2', 'Glow, 8-bit MNIST', 1.05, 'mnist_diffusion', _FLOWS),
  ('Chen et al. 2019, Table 1', 'residual flow, 8-bit MNIST', 0.97, 'mnist_diffusion', _FLOWS),
  *(
    ('Katharopoulos et al. 2020, Table 1', f'{_TRANSFORMER}{beside}', 0.621, run, _bound(run))
    for run, beside in (
      ('mnist_diffusion', ''),
      ('mnist_diffusion_large', ', beside the larger of our networks'),
    )
  ),
)

NUMBERS = (
  *(
    Number(
      'Burda et al. 2016, Table 1',
      f'{name.partition("_")[0].upper()}, k = {name.partition("_")[2]}, one stochastic layer',
      'nll_bound',
      nll,
      active_units,
      f'burda_{name}',
      f'{burda.PASSES[name.partition("_")[0]]} passes in batches of 100 with cosine decay from '
      '2e-3, not 3,280 in batches of 20 with eight learning rates from 1e-3 down; Adam with eps '
      '1e-8, not 1e-4; an average of the parameters over the last 1,000 steps; the encoder sees '
      'pictures less their mean; that and the learning rate were chosen by the test NLL of '
      'shorter trainings',
    )
    for name, (nll, active_units) in _BURDA.items()
  ),
  *(
    Number(source, what, 'bits_per_dim', value, None, run, differs)
    for source, what, value, run, differs in _MNIST
  ),
)


_FID_OF_STEPS = {
  'eta = 0, 10 steps': 13.36,
  'eta = 1, 10 steps': 41.07,
  'eta = 0, 20 steps': 6.84,
  'eta = 1, 20 steps': 18.36,
  'eta = 0, 50 steps': 4.67,
  'eta = 1, 50 steps': 8.01,
}


def _few_steps(a: Arrays) -> dict[str, np.ndarray]:
  # DDIM with eta 1 is ancestral sampling with the smaller fixed variance.
  return {
    f'eta = {eta}, {calls} steps': a[f'frechet_{label}'][:, i]
    for label, eta in (('DDIM', 0), ('ancestral', 1))
    for i, calls in enumerate(a[f'calls_{label}'])
    if f'eta = {eta}, {calls} steps' in _FID_OF_STEPS
  }


_SHORTER = 'fewer samples; shorter training'
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
    f'Fréchet distance in the features of our own classifier, not Inception; {_SHORTER}; '
    'multi-layer perceptrons, not convolutions',
  ),
  Order(
    'Song et al. 2021, Table 1 (CIFAR-10)',
    'FID of DDIM in few steps',
    _FID_OF_STEPS,
    'f12_samplers',
    _few_steps,
    tuple((f'eta = 0, {steps} steps', f'eta = 1, {steps} steps') for steps in (10, 20, 50)),
    f'Fréchet distance in the features of our own classifier, on other data; {_SHORTER}; a '
    'schedule linear in the log-SNR',
  ),
)


def runs(has_accelerator: bool) -> dict[str, ConfigDict]:
  """{name: config} of the runs that are to be trained."""
  return {
    name: get_config()
    for name, get_config in RUNS.items()
    if has_accelerator or name not in ON_ACCELERATORS
  }


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


def _is_there(folder: Path, number: Number) -> bool:
  config = RUNS[number.run]().to_dict()
  return workdir.is_finished(workdir.named(folder, number.run, config), config, ('results.json',))


def _number(folder: Path, number: Number) -> dict:
  config = RUNS[number.run]().to_dict()
  results = workdir.read_results(workdir.named(folder, number.run, config))
  metric, active = results['metrics'][number.metric], results['metrics'].get('active_units')
  return {
    'source': number.source,
    'what': number.what,
    'published': number.value,
    'ours': metric['value'],
    'stderr': metric['stderr'],
    'unit': metric['unit'],
    'published_active_units': number.active_units,
    'active_units': active and active['value'],
    'device': results['provenance']['device'],
    'commit': results['provenance']['commit'],
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
      {
        'what': label,
        'published': value,
        'ours': float(np.mean(ours[label])),
        'stderr': standard_error(ours[label]),
      }
      for label, value in order.published.items()
    ],
    'evidence': [e._asdict() for e in found],
    'verdict': claims.verdict(found),
    'differs': order.differs,
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
    header = ('paper', 'model', 'published', 'ours', 'standard error', 'unit')
    header += (
      'active units, published',
      'active units, ours',
      'computed on, at commit',
      'what differs',
    )
    rows = [_number_in_words(entry) for entry in compared['numbers']]
    remark = 'Standard errors are over the test examples of one run.'
    found.append(Table('Numbers', header, rows, remark))
  for entry in compared['orders']:
    rows = [
      (row['what'], f'{row["published"]:g}', f'{row["ours"]:.3g}', f'{row["stderr"]:.2g}')
      for row in entry['rows']
    ]
    found.append(
      Table(
        f'{entry["source"]}: {entry["what"]}; ours on {entry["dataset"]}',
        ('', 'published', 'ours', 'standard error over the seeds'),
        rows,
        f'The order of the paper: {entry["verdict"]}. By how much, with 95% intervals over the '
        f'seeds: {"; ".join(map(claims.in_words, entry["evidence"]))}. What differs: '
        f'{entry["differs"]}.',
      )
    )
  return found


def _number_in_words(entry: Mapping) -> tuple[str, ...]:
  units = entry['published_active_units'], entry['active_units']
  return (
    entry['source'],
    entry['what'],
    f'{entry["published"]:g}',
    f'{entry["ours"]:.4g}',
    f'{entry["stderr"]:.2g}',
    entry['unit'],
    *('-' if number is None else f'{number:g}' for number in units),
    f'{entry["device"]}, {entry["commit"][:7]}',
    entry['differs'],
  )


def markdown(compared: Mapping[str, Sequence[Mapping]]) -> str:
  """results.md."""
  return '\n'.join(
    f'## {table.heading}\n\n{reporting.table(table.header, table.rows)}'
    + (f'\n{table.remark}\n' if table.remark else '')
    for table in tables(compared)
  )
