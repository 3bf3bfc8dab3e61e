"""The report of exact answers: its rows hold, its verdicts are right, its exit status says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import exact
from experiments.exact import Row, Variance

ROOT = Path(__file__).parents[2]


def test_a_row_holds_within_three_standard_errors_or_the_tolerance():
  assert Row('statistical', 1.0, 1.29, stderr=0.1).holds
  assert not Row('statistical', 1.0, 1.31, stderr=0.1).holds
  assert Row('deterministic', 1.0, 0.991, tolerance=0.01).holds
  assert not Row('deterministic', 1.0, 0.989, tolerance=0.01).holds
  assert Row('both', 1.0, 1.05, stderr=0.01, tolerance=0.1).holds
  assert not Row('not a number', 1.0, float('nan'), stderr=1.0).holds


def test_the_exit_status_tells_whether_every_row_holds(monkeypatch, capsys):
  monkeypatch.setattr(exact, 'time_sampler_variances', lambda num: [Variance('u', 1, 0, 1, 0)])
  good, bad = Row('good', 1.0, 1.1, tolerance=0.2), Row('bad', 1.0, 1.3, tolerance=0.2)
  for rows, status in (([good], 0), ([good, bad], 1)):
    monkeypatch.setattr(exact, 'rows', lambda quick, rows=rows: iter(rows))
    assert exact.main([]) == status
  out = capsys.readouterr().out
  assert '| bad | 1 | 1.3 | 0.3 | 0 | 0.2 | NO |' in out
  assert '1 of 2 rows hold' in out


def test_wrong_input_is_answered_in_one_line(capsys):
  assert exact.main(['--fast']) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("error: unknown argument '--fast'; usage: ")


# Its tests run in one process, which makes the report once.
of_report = pytest.mark.xdist_group('report')


@pytest.fixture(scope='module')
def report():
  """The lines of the two tables of a quick run, as lists of cells."""
  done = subprocess.run(
    [sys.executable, '-m', 'experiments.exact', '--quick'],
    cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  tables = done.stdout.split('\n\n')
  return [
    [line.strip('| ').split(' | ') for line in table.splitlines()[2:]]
    for table in (tables[0], tables[2])
  ]


@of_report
def test_every_row_of_a_quick_run_holds(report):
  rows, _ = report
  assert {row[-1] for row in rows} == {'yes'}
  for quantity, *numbers, _ in rows:
    exact_value, ours, difference, stderr, tolerance = map(float, numbers)
    assert max(stderr, tolerance) > 0, quantity
    assert abs(difference) <= 1.001 * max(3 * stderr, tolerance)
    # The cells have five digits.
    assert abs(ours - exact_value - difference) <= 1e-4 * (abs(ours) + abs(exact_value))


@of_report
def test_every_group_has_its_rows(report):
  quantities = ' '.join(row[0] for row in report[0])
  for words in (
    'linear VAE, full posterior',
    'full less diagonal posterior',
    'importance-weighted bound',
    'annealed importance sampling',
    'mean gradient of the ELBO, of norm',
    'optimal reverse model, T = 64',
    'exponent of this gap',
    'optimal variance closes',
    'fitted reverse variance',
    'calibration',
    'samples by ancestral: variance',
    'order of convergence of heun',
    'hutchinson divergence',
    'best Gaussian in the step',
  ):
    assert words in quantities


@of_report
def test_time_samplers_reduce_the_variance(report):
  """To less than half of that of uniform times: 5 standard errors and more below."""
  (_, uniform, _), *others = report[1]
  assert uniform == '1.000 +- 0.000'
  for _, loss, _ in others:
    ratio, _, stderr = loss.split()
    assert float(ratio) + 5 * float(stderr) < 0.5


@of_report
def test_the_linear_vae_stays_below_its_bound(report):
  """An ELBO above the largest log-likelihood of the data would be a wrong one."""
  differences = [float(row[3]) for row in report[0] if 'linear VAE' in row[0]]
  assert len(differences) == 2
  assert max(differences) < 1e-5
