"""The page: every claim, number and figure is on it, and its links lead somewhere."""

import re
import types

from experiments import claims, page
from experiments.publishing import Part

MODULE = types.SimpleNamespace(TITLE='Samplers & <steps>', CAPTION='What is shown.')
MOVING = types.SimpleNamespace(TITLE='Chains', CAPTION='They move.', animate=None)
PARTS = [Part('f12_samplers', 'digits', MODULE, {}), Part('f13_trajectories', '', MOVING, {})]
JUDGED = [
  {
    'section': '4',
    'claim': 'KL(q | p) < 1.',
    'effect': 'what is measured',
    'figure': 'f12_samplers',
    'evidence': [claims.evidence('digits', 1.0)._asdict()],
    'verdict': 'not supported: open with digits',
  }
]
NUMBER = {
  'source': 'a paper',
  'what': 'a model',
  'published': 86.76,
  'ours': 87.125,
  'stderr': 0.25,
  'unit': 'nats',
  'published_active_units': 19,
  'active_units': 18.0,
  'device': '1 cpu',
  'commit': '0123456789',
  'differs': 'this & that',
}
ORDER = {
  'source': 'another paper',
  'what': 'distances',
  'dataset': 'digits',
  'rows': [{'what': 'a row', 'published': 1.5, 'ours': 2.5, 'stderr': 0.5}],
  'evidence': [],
  'verdict': 'supported',
  'differs': 'all',
}
COMMITS = {
  '': {'figures': ['abc'], 'runs': []},
  'digits': {'figures': ['abc'], 'runs': ['abc', 'def-dirty']},
}
TEXT = page.html(PARTS, JUDGED, {'numbers': [NUMBER], 'orders': [ORDER]}, COMMITS)


def test_everything_is_on_the_page():
  for part in PARTS:
    assert f'src="{part.stem}.png"' in TEXT
    assert f'href="{part.stem}.npz"' in TEXT
  assert 'src="f13_trajectories.gif"' in TEXT
  assert 'src="f12_samplers_digits.gif"' not in TEXT
  commits = 'abc (mathematics); abc, of runs at commit abc and def-dirty (digits)', '1 cpu, 0123456'
  for words in ('KL(q | p) &lt; 1.', '87.12', '2.5', 'this &amp; that', *commits):
    assert words in TEXT


def test_every_link_leads_somewhere():
  targets = re.findall(r'href="#([^"]+)"', TEXT)
  assert targets
  assert set(targets) <= set(re.findall(r'id="([^"]+)"', TEXT))


def test_every_cell_knows_its_column():
  """On a phone a row is a list of its cells, each with the name of its column."""
  rows = re.findall(r'<tr>(<td.*?)</tr>', TEXT, re.S)
  assert len(rows) == 3
  for row in rows:
    labels = re.findall(r'<td class="[^"]*" data-label="([^"]*)">', row)
    assert len(labels) == row.count('<td')
  assert '<td class="not" data-label="verdict">' in TEXT


def test_what_has_no_remark_has_no_empty_paragraph():
  assert '<p></p>' not in TEXT
