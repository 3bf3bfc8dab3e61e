"""Prints the results of finished runs as one Markdown table.

python -m experiments.table WORKDIR [WORKDIR ...]
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from vaediff.errors import InputError

COLUMNS = ('nll_bound', 'bits_per_dim')


def main(workdirs: Sequence[str]) -> int:
  """Prints the table; returns the exit status."""
  try:
    if not workdirs:
      raise InputError('no workdir is given; usage: python -m experiments.table WORKDIR ...')
    print('\n'.join(table([Path(workdir) for workdir in workdirs])))
  except InputError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  return 0


def table(workdirs: Sequence[Path]) -> list[str]:
  """The lines of the table: one row for each run, `value +- standard error` in each cell."""
  results = [_results(workdir) for workdir in workdirs]
  units = [results[0]['metrics'][name]['unit'] for name in COLUMNS]
  header = ['method', 'data, split', 'examples', 'step']
  header += [f'{name} ({unit})' for name, unit in zip(COLUMNS, units, strict=True)]
  lines = [_row([*header, 'samples']), _row(['---'] * (len(header) + 1))]
  for workdir, result in zip(workdirs, results, strict=True):
    metrics = [result['metrics'][name] for name in COLUMNS]
    cells = [result['method'], f'{result["dataset"]}, {result["split"]}']
    cells += [str(result['num_examples']), str(result['step'])]
    cells += [f'{metric["value"]:.3f} +- {metric["stderr"]:.3f}' for metric in metrics]
    lines.append(_row([*cells, str(workdir / 'samples.png')]))
  return lines


def _results(workdir: Path) -> dict:
  path = workdir / 'results.json'
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise InputError(
      f'{path} cannot be read ({error}); finish the run first: python -m experiments.run'
    ) from error


def _row(cells: Sequence[str]) -> str:
  return f'| {" | ".join(cells)} |'


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
