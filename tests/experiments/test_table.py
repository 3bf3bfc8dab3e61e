"""The table of results: values with their errors and units, one row for each run."""

import json

from experiments import table


def write_results(folder, value):
  folder.mkdir()
  metric = {'value': value, 'stderr': 0.25, 'unit': 'nats'}
  results = {
    'method': 'vae',
    'dataset': 'digits',
    'split': 'test',
    'step': 20,
    'num_examples': 297,
    'metrics': {'nll_bound': metric, 'bits_per_dim': {**metric, 'unit': 'bits/dim'}},
  }
  (folder / 'results.json').write_text(json.dumps(results))


def test_one_row_for_each_run(tmp_path, capsys):
  write_results(tmp_path / 'a', 1.5)
  write_results(tmp_path / 'b', 2.0)
  assert table.main([str(tmp_path / 'a'), str(tmp_path / 'b')]) == 0
  header, rule, a, b = capsys.readouterr().out.splitlines()
  assert 'nll_bound (nats) | bits_per_dim (bits/dim)' in header
  assert set(rule) <= set('|- ')
  assert '| vae | digits, test | 297 | 20 | 1.500 +- 0.250 |' in a
  assert '2.000 +- 0.250' in b
  assert str(tmp_path / 'b' / 'samples.png') in b


def test_wrong_input_is_answered_in_one_line(tmp_path, capsys):
  (tmp_path / 'results.json').write_text('{"torn')
  for arguments, expected in (
    ([], 'no workdir is given'),
    ([str(tmp_path / 'none')], 'cannot be read'),
    ([str(tmp_path)], 'cannot be read'),
  ):
    assert table.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ')
    assert expected in line


def test_quality_cost_and_floor_where_they_were_measured(tmp_path, capsys):
  """A run without a bound leaves its cells empty; the floor is the last row."""
  write_results(tmp_path / 'a', 1.5)
  write_results(tmp_path / 'b', 2.0)
  results = json.loads((tmp_path / 'b' / 'results.json').read_text())
  distance = {'value': 3.5, 'stderr': 0.5, 'unit': 'squared distance'}
  floor = {**distance, 'value': 0.25}
  results['metrics'] = {'frechet_distance': distance, 'frechet_distance_floor': floor}
  results |= {
    'method': 'autoencoder',
    'cost': {'num_params': 12_345, 'seconds_per_1000_samples': 0.125},
    'protocol': {'sampler': {'codes': 'mixture'}},
  }
  (tmp_path / 'b' / 'results.json').write_text(json.dumps(results))
  assert table.main([str(tmp_path / 'a'), str(tmp_path / 'b')]) == 0
  header, _, a, b, real = capsys.readouterr().out.splitlines()
  assert 'frechet_distance (squared distance) | training_seconds (s) | num_params |' in header
  assert '1.500 +- 0.250 | 1.500 +- 0.250 |  |  |  |  |' in a
  assert b.startswith(
    '| autoencoder, mixture codes | digits, test | 297 | 20 |  |  | 3.500 +- 0.500'
  )
  assert '|  | 12,345 | 0.125 |' in b
  assert real.startswith('| real pictures |')
  assert '0.250 +- 0.500' in real
  assert len({line.count('|') for line in (header, a, b, real)}) == 1
