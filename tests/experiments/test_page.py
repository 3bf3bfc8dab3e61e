"""The page: every claim, number and figure is on it, and its links lead somewhere."""

import json
import re
import shutil
import subprocess
import types

import numpy as np
import pytest
from PIL import Image

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
# In the page: tells the page around it which pictures are not there, and how wide it is and may be.
REPORT = """<script>
onload = () => parent.postMessage({
  missing: [...document.images].filter(image => !image.naturalWidth).map(image => image.alt),
  width: document.documentElement.scrollWidth,
  allowed: document.documentElement.clientWidth,
}, '*');
</script>"""
# Around the page: as wide as a device, and what it was told, as text.
DEVICE = """<pre></pre><script>
onmessage = event => document.querySelector('pre').textContent = JSON.stringify(event.data);
</script><iframe width="{width}" height="800" src="index.html"></iframe>"""
BROWSER = shutil.which('chromium') or shutil.which('google-chrome')
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


@pytest.mark.skipif(not BROWSER, reason='there is no Chromium')
@pytest.mark.parametrize('width', [360, 1280], ids=['phone', 'desk'])
def test_a_browser_shows_it_from_disk(width, tmp_path):
  for name in re.findall(r'src="([^"]+)"', TEXT):
    Image.fromarray(np.zeros((300, 900, 3), np.uint8)).save(tmp_path / name)
  (tmp_path / 'index.html').write_text(TEXT.replace('</body>', f'{REPORT}</body>'))
  (tmp_path / 'device.html').write_text(DEVICE.format(width=width))
  options = ['--headless', '--no-sandbox', '--disable-gpu', '--virtual-time-budget=5000']
  options += [f'--user-data-dir={tmp_path / "profile"}', '--dump-dom']
  address = (tmp_path / 'device.html').as_uri()
  shown = subprocess.run(
    [BROWSER, *options, address], capture_output=True, text=True, timeout=120, check=True
  ).stdout
  report = json.loads(re.search(r'<pre>(.+)</pre>', shown)[1])
  assert report == {'missing': [], 'width': report['allowed'], 'allowed': report['allowed']}
  assert width - 20 <= report['allowed'] <= width
