"""docs/lecture.md: every name it links exists, every number in it is that of docs/paper."""

import importlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from experiments import claims, gallery, published
from vaediff import reporting
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


def a_claim(claim, value, condition):
  found = claims.Evidence(condition, 5, value, value - 1, value + 1, claims.HOLDS)
  return claims.entry(claim, [found._replace(state=claims.HOLDS if value > 1 else claims.OPEN)])


def a_number(what, ours):
  names = ('published', 'stderr', 'active_units', 'published_active_units')
  words = dict.fromkeys(('source', 'unit', 'device', 'commit', 'differs'), '')
  return {**dict.fromkeys(names, 0), **words, 'what': what, 'ours': ours}


def commits(*datasets):
  return {dataset: {'figures': [f'of {dataset}'], 'runs': []} for dataset in datasets}


@pytest.fixture
def paper(tmp_path):
  """A paper of one figure and one number, in which the first claim has come out another way."""
  folder = tmp_path / 'paper'
  folder.mkdir()
  judged = {'commits': commits('digits'), 'claims': [a_claim(claims.CLAIMS[0], 7.5, 'digits')]}
  (folder / 'claims.json').write_text(json.dumps(judged))
  compared = {'numbers': [a_number('a VAE', 86.5)], 'orders': []}
  (folder / 'results.json').write_text(json.dumps(compared))
  pixels = np.random.default_rng(0).integers(0, 255, (600, 2400, 3), dtype=np.uint8)
  Image.fromarray(pixels).save(folder / 'f01.png')
  frames = [np.full((8, 8, 3), 10 * i, np.uint8) for i in range(8)]
  reporting.write_animation(folder / 'f01.gif', frames, 60)
  return folder


def test_a_paper_is_brought_into_the_documentation(paper, tmp_path):
  docs = tmp_path / 'docs'
  docs.mkdir()
  shutil.copy(DOCS / 'lecture.md', docs)
  gallery.bring(paper, docs)
  assert '86.5' in (docs / 'paper' / 'results.md').read_text()
  with Image.open(docs / 'paper' / 'f01.png') as picture:
    assert picture.size == (1200, 300)
  with Image.open(docs / 'paper' / 'f01.gif') as animation:
    frames = [
      (frame.info['duration'], frame.convert('L').getpixel((0, 0)))
      for frame in ImageSequence.Iterator(animation)
    ]
  assert frames == [(180, 10), (180, 40), (1000, 70)]
  before, after = TEXT.splitlines(), (docs / 'lecture.md').read_text().splitlines()
  where, changed = [new for old, new in zip(before, after, strict=True) if old != new]
  assert where == 'Computed at commit of digits (digits).'
  assert changed.startswith(f'- *{claims.CLAIMS[0].says}*')
  assert changed.endswith('digits: 7.5 [6.5, 8.5]. **supported**')


def test_what_a_paper_lacks_stays(paper, tmp_path):
  """Of other data sets and other runs; what both have is that of the paper."""
  docs = tmp_path / 'docs'
  (docs / 'paper').mkdir(parents=True)
  shutil.copy(DOCS / 'lecture.md', docs)
  first, second, third, *_ = claims.CLAIMS
  old = [a_claim(first, 1, 'digits, before'), a_claim(second, 2, 'mnist')]
  old += [a_claim(third, 3, 'mnist') | {'effect': 'another one'}]
  old[0]['evidence'] += a_claim(first, 0.5, 'mnist, a condition')['evidence']
  old[0]['evidence'] += a_claim(first, 2, 'exactly')['evidence']
  old = {'commits': commits('digits', 'mnist'), 'claims': old}
  old['commits']['digits']['figures'] = ['an old one']
  (docs / 'paper' / 'claims.json').write_text(json.dumps(old))
  compared = {'numbers': [a_number('an IWAE', 84.5), a_number('a VAE', 99.5)], 'orders': []}
  (docs / 'paper' / 'results.json').write_text(json.dumps(compared))
  gallery.bring(paper, docs)
  joined = json.loads((docs / 'paper' / 'claims.json').read_text())
  assert joined['commits'] == commits('digits', 'mnist')
  assert [entry['claim'] for entry in joined['claims']] == [first.says, second.says]
  conditions = [found['condition'] for found in joined['claims'][0]['evidence']]
  assert conditions == ['exactly', 'digits', 'mnist, a condition']
  assert joined['claims'][0]['verdict'].startswith(claims.DEPENDS)
  numbers = json.loads((docs / 'paper' / 'results.json').read_text())['numbers']
  assert {entry['what']: entry['ours'] for entry in numbers} == {'an IWAE': 84.5, 'a VAE': 86.5}
  words = (docs / 'paper' / 'results.md').read_text()
  assert '84.5' in words
  assert '99.5' not in words


def test_a_paper_of_some_figures_leaves_the_claims_of_others():
  first, second, *_ = claims.CLAIMS
  old = [a_claim(first, 1, 'digits'), a_claim(second, 2, 'digits')]
  of_old = {'digits': {'figures': ['an old one'], 'runs': ['of runs']}}
  new = {'commits': commits('digits'), 'claims': [a_claim(first, 3, 'digits')]}
  joined = gallery.join_claims({'commits': of_old, 'claims': old}, new)
  assert joined['claims'] == [*new['claims'], old[1]]
  both = {'figures': ['an old one', 'of digits'], 'runs': ['of runs']}
  assert joined['commits'] == {'digits': both}


def test_the_numbers_in_words_are_those_of_the_file():
  compared = json.loads((DOCS / 'paper' / 'results.json').read_text())
  assert published.markdown(compared) == (DOCS / 'paper' / 'results.md').read_text()


def test_a_claim_that_the_lecture_lacks_is_named():
  entry = {'claim': 'What nobody has said.', 'effect': '', 'evidence': [], 'verdict': ''}
  with pytest.raises(InputError, match=r'0 lines that begin with .*What nobody has said'):
    gallery.tell(TEXT, {'commits': {}, 'claims': [entry]})


def test_a_folder_without_a_paper_is_refused(refuse, tmp_path):
  line = refuse(f'--paper={tmp_path}', module='experiments.gallery')
  assert f'{tmp_path} holds no paper' in line
