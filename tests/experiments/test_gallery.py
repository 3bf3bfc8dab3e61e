"""docs/lecture.md: every name it links exists, every number in it is that of docs/paper."""

import importlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import claims, gallery
from vaediff.errors import InputError

DOCS = Path(__file__).parents[2] / 'docs'
TEXT = (DOCS / 'lecture.md').read_text()
NAMES = re.findall(r'\[`([\w.]+)`\]\(([^)]+)\)', TEXT)
FILES = re.findall(r'\]\(([^)]+)\)', TEXT)


def test_the_lecture_links_its_functions():
  assert len(NAMES) > 30


@pytest.mark.parametrize(('name', 'target'), NAMES)
def test_a_linked_name_exists_where_the_link_says(name, target):
  module, _, attribute = name.rpartition('.')
  module = importlib.import_module(f'vaediff.{module}')
  assert hasattr(module, attribute)
  assert Path(module.__file__) == (DOCS / target).resolve()


@pytest.mark.parametrize('target', sorted(set(FILES)))
def test_a_linked_file_exists(target):
  assert (DOCS / target).is_file()


def test_every_claim_is_told_with_its_numbers():
  measured = json.loads((DOCS / 'paper' / 'claims.json').read_text())
  assert [entry['claim'] for entry in measured['claims']] == [c.says for c in claims.CLAIMS]
  assert gallery.tell(TEXT, measured) == TEXT


@pytest.fixture
def paper(tmp_path):
  """A paper of one figure, in which the first claim has come out another way."""
  folder = tmp_path / 'paper'
  folder.mkdir()
  judged = json.loads((DOCS / 'paper' / 'claims.json').read_text())
  judged['claims'][0]['verdict'] = 'another verdict'
  (folder / 'claims.json').write_text(json.dumps(judged))
  (folder / 'results.json').write_text('{}')
  (folder / 'results.md').write_text('## Numbers')
  pixels = np.random.default_rng(0).integers(0, 255, (600, 2400, 3), dtype=np.uint8)
  Image.fromarray(pixels).save(folder / 'f01.png')
  return folder


def test_a_paper_is_brought_into_the_documentation(paper, tmp_path):
  docs = tmp_path / 'docs'
  docs.mkdir()
  shutil.copy(DOCS / 'lecture.md', docs)
  gallery.bring(paper, docs)
  assert (docs / 'paper' / 'results.md').read_text() == '## Numbers'
  with Image.open(docs / 'paper' / 'f01.png') as picture:
    assert picture.size == (1200, 300)
  before, after = TEXT.splitlines(), (docs / 'lecture.md').read_text().splitlines()
  (changed,) = [new for old, new in zip(before, after, strict=True) if old != new]
  assert changed.startswith(f'- *{claims.CLAIMS[0].says}*')
  assert changed.endswith('**another verdict**')


def test_a_claim_that_the_lecture_lacks_is_named():
  entry = {'claim': 'What nobody has said.', 'effect': '', 'evidence': [], 'verdict': ''}
  with pytest.raises(InputError, match=r'0 lines that begin with .*What nobody has said'):
    gallery.tell(TEXT, {'commits': {'figures': [], 'runs': []}, 'claims': [entry]})


def test_a_folder_without_a_paper_is_refused(refuse, tmp_path):
  line = refuse(f'--paper={tmp_path}', module='experiments.gallery')
  assert f'{tmp_path} holds no paper' in line
