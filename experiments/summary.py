"""What the trials of a sweep come to: for each setting the mean over its seeds, as a table."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import schema, trials
from experiments.trials import Sweep, Trial
from vaediff import reporting
from vaediff.errors import InputError
from vaediff.evaluation.likelihood import standard_error

NAME = 'sweep'


def collect(folder: Path, keys: Sequence[str]) -> dict[str, float]:
  """The numbers with these dotted names in the results of a run.

  Raises InputError where one is not there, or no number.
  """
  path = folder / 'results.json'
  found = schema.flatten(json.loads(path.read_text()))
  numbers = {k: v for k, v in found.items() if isinstance(v, int | float)}
  for key in keys:
    if key not in numbers:
      raise InputError(f'{path} has no number {key}{schema.nearest_name(key, numbers)}')
  return {key: numbers[key] for key in keys}


def summarize(
  sweep: Sweep, expanded: Sequence[Trial], states: Mapping, collected: Mapping, errors: Mapping
) -> dict[str, Any]:
  """What sweep.json holds.

  states: {name: state} of the trials. collected: {name: {key: number}} of those that are done.
  errors: {name: line} of those that have failed. The settings are sorted by the mean of the first
  key, those without a trial that is done at the end. A standard error takes two seeds.
  """
  settings = {}
  for trial in expanded:
    key = json.dumps(trial.setting, sort_keys=True)
    settings.setdefault(key, (trial.setting, []))[1].append(trial.name)
  rows = []
  for setting, names in settings.values():
    done = [collected[name] for name in names if name in collected]
    row = {'setting': setting, 'num_seeds': len(names), 'num_done': len(done), 'metrics': {}}
    for key in sweep.collect if done else ():
      values = np.array([numbers[key] for numbers in done])
      stderr = standard_error(values) if len(values) > 1 else None
      row['metrics'][key] = {'value': float(np.mean(values)), 'stderr': stderr}
    rows.append(row)
  sign = 1 if sweep.best == 'min' else -1

  def place(row: Mapping) -> float:
    metrics = row['metrics']
    return sign * metrics[sweep.collect[0]]['value'] if metrics else float('inf')

  return {
    'collect': sweep.collect,
    'best': sweep.best,
    'settings': sorted(rows, key=place),
    'trials': {
      trial.name: {
        'setting': trial.setting,
        'seed': trial.config['seed'],
        'state': states[trial.name],
        'collected': collected.get(trial.name, {}),
        'error': errors.get(trial.name, ''),
      }
      for trial in expanded
    },
  }


def write(folder: Path, summary: Mapping[str, Any]) -> None:
  """Writes sweep.json, sweep.md and sweep.csv."""
  reporting.write_json(folder / f'{NAME}.json', summary)
  for suffix, text in (('md', markdown(summary)), ('csv', as_csv(summary))):
    with reporting.replacing(folder / f'{NAME}.{suffix}') as temporary:
      temporary.write_text(text)


def markdown(summary: Mapping[str, Any]) -> str:
  """The settings as a Markdown table, `mean +- standard error over seeds` in each cell."""
  fields = _fields(summary)
  header = [*fields, 'seeds', *map(label, summary['collect'])]
  lines = []
  for row in summary['settings']:
    line = [trials.value_in_words(row['setting'].get(field, '')) for field in fields]
    line.append(_count(row))
    line += [_cell(row['metrics'].get(key)) for key in summary['collect']]
    lines.append(line)
  return reporting.table(header, lines)


def as_csv(summary: Mapping[str, Any]) -> str:
  """The settings as comma-separated values, with all digits."""
  file, fields = io.StringIO(), _fields(summary)
  writer = csv.writer(file, lineterminator='\n')
  columns = [f'{label(key)}{end}' for key in summary['collect'] for end in ('', '_stderr')]
  writer.writerow([*fields, 'seeds', *columns])
  for row in summary['settings']:
    numbers = [
      row['metrics'].get(key, {}).get(part)
      for key in summary['collect']
      for part in ('value', 'stderr')
    ]
    settings = [row['setting'].get(field, '') for field in fields]
    writer.writerow([*settings, row['num_done'], *numbers])
  return file.getvalue()


def _fields(summary: Mapping[str, Any]) -> list[str]:
  return list(dict.fromkeys(field for row in summary['settings'] for field in row['setting']))


def label(key: str) -> str:
  """What is left of a dotted name without what all metrics have: nll_bound."""
  return key.removeprefix('metrics.').removesuffix('.value')


def _count(row: Mapping) -> str:
  done, num = row['num_done'], row['num_seeds']
  return f'{num}' if done == num else f'{done} of {num}'


def _cell(metric: Mapping | None) -> str:
  if metric is None:
    return ''
  stderr = '' if metric['stderr'] is None else f' +- {metric["stderr"]:.3f}'
  return f'{metric["value"]:.3f}{stderr}'
