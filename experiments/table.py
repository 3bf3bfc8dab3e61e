"""Prints the results of finished runs as one Markdown table.

python -m experiments.table WORKDIR [WORKDIR ...]
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import storage
from vaediff import reporting
from vaediff.errors import InputError

# Columns, where at least one of the runs has them.
METRICS = (
  'nll_bound',
  'bits_per_dim',
  'frechet_distance',
  'precision',
  'recall',
  'density',
  'coverage',
  'sharpness',
  'training_distance',
)
COSTS = {'training_seconds': 's', 'num_params': '', 'seconds_per_1000_samples': 's'}


def main(workdirs: Sequence[str]) -> int:
  """Prints the table; returns the exit status."""
  try:
    if not workdirs:
      raise InputError('no workdir is given; usage: python -m experiments.table WORKDIR ...')
    print(table([storage.path(workdir) for workdir in workdirs]), end='')
  except InputError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  return 0


def table(workdirs: Sequence[Path]) -> str:
  """The table: one row for each run, `value +- standard error` in each cell.

  The error is over the examples; of a run of several seeds the value is the mean over the seeds and
  the error that of this mean.

  Where the quality of samples was measured there are columns for it and for what the runs cost, and
  a last row with its floor, what other real pictures get in the place of samples.
  """
  results = [_results(workdir) for workdir in workdirs]
  metrics = [name for name in METRICS if any(name in result['metrics'] for result in results)]
  is_quality = any('seconds_per_1000_samples' in result.get('cost', {}) for result in results)
  costs = COSTS if is_quality else {}
  header = ['method', 'data, split', 'examples', 'step']
  header += [_with_unit(name, _unit(results, name)) for name in metrics]
  header += [_with_unit(name, unit) for name, unit in costs.items()]
  rows = []
  for workdir, result in zip(workdirs, results, strict=True):
    cells = [_name(result), f'{result["dataset"]}, {result["split"]}']
    cells += [str(result['num_examples']), str(result['step'])]
    cells += [_cell(result['metrics'].get(name)) for name in metrics]
    cells += [_number(result.get('cost', {}).get(name)) for name in costs]
    rows.append([*cells, str(workdir / 'samples.png')])
  if is_quality:
    floors = next(r['metrics'] for r in results if 'frechet_distance_floor' in r['metrics'])
    cells = [_cell(floors.get(f'{name}_floor')) for name in metrics]
    rows.append(['real pictures', '', '', '', *cells, *[''] * (len(costs) + 1)])
  return reporting.table([*header, 'samples'], rows)


def _name(result: dict) -> str:
  """The method, and what differs from the usual: decoded codes that are not the prior's, seeds."""
  codes = result.get('protocol', {}).get('sampler', {}).get('codes', 'prior')
  num_seeds = sum('metrics' in of_seed for of_seed in result.get('seeds', []))
  name = result['method'] if codes == 'prior' else f'{result["method"]}, {codes} codes'
  return f'{name}, {num_seeds} seeds' if num_seeds else name


def _unit(results: Sequence[dict], name: str) -> str:
  return next(r['metrics'][name]['unit'] for r in results if name in r['metrics'])


def _with_unit(name: str, unit: str) -> str:
  return f'{name} ({unit})' if unit else name


def _cell(metric: dict | None) -> str:
  return '' if metric is None else f'{metric["value"]:.3f} +- {metric["stderr"]:.3f}'


def _number(value: float | None) -> str:
  return '' if value is None else f'{value:,.0f}' if value > 100 else f'{value:.3g}'


def _results(workdir: Path) -> dict:
  path = workdir / 'results.json'
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise InputError(
      f'{path} cannot be read ({error}); finish the run first: python -m experiments.run'
    ) from error


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
