"""The paper: what one command makes, and what it makes again."""

import json

import pytest

from configs import paper as runs
from experiments import claims, publishing
from experiments.figures import FIGURES
from experiments.trials import parse_resources

# The paper is made once, by one of the processes that share the tests.
pytestmark = pytest.mark.xdist_group('paper')

NAMES = ('f04_divergence', 'f06_warmup')
# Written each time.
WORDS = {'claims.json', 'claims.md', 'results.json', 'results.md', 'index.html'}


@pytest.fixture(scope='module')
def publish(tmp_path_factory):
  """publish(): makes a paper of two figures, of tiny runs; its folder is publish.folder."""
  folder = tmp_path_factory.mktemp('paper')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(publishing, 'FIGURES', {name: FIGURES[name] for name in NAMES})
    patch.setattr(claims, 'CLAIMS', [c for c in claims.CLAIMS if c.figure in NAMES])
    patch.setattr(
      publishing,
      '_configs',
      lambda dataset, quick: {
        name: runs.get_config(f'{dataset}_{name},tiny').to_dict() for name in runs.RUNS
      },
    )

    def publish():
      publishing.publish(folder, quick=True, resources=parse_resources([], {}), num_workers=2)

    publish.folder = folder
    publish()
    yield publish


def contents(folder):
  return {path.name: path.read_bytes() for path in sorted((folder / 'paper').iterdir())}


def times(folder):
  return {path.name: path.stat().st_mtime_ns for path in (folder / 'paper').iterdir()}


def test_one_command_makes_all(publish):
  stems = ('f04_divergence', 'f06_warmup_digits')
  expected = {f'{stem}{suffix}' for stem in stems for suffix in ('.npz', '.pdf', '.png')}
  assert set(contents(publish.folder)) == expected | WORDS
  text = (publish.folder / 'paper' / 'index.html').read_text()
  for stem in stems:
    assert f'src="{stem}.png"' in text
    assert f'id="{stem}"' in text
  judged = json.loads((publish.folder / 'paper' / 'claims.json').read_text())
  assert [entry['claim'] for entry in judged] == [c.says for c in claims.CLAIMS]


def test_a_second_time_makes_nothing_but_the_same_words(publish):
  before, old = contents(publish.folder), times(publish.folder)
  publish()
  assert contents(publish.folder) == before
  made = {name for name, time in times(publish.folder).items() if time != old[name]}
  assert made == WORDS


@pytest.mark.parametrize('suffix', ['.npz', '.png'])
def test_what_is_gone_is_made_again_alone_and_the_same(suffix, publish):
  before, old = contents(publish.folder), times(publish.folder)
  (publish.folder / 'paper' / f'f06_warmup_digits{suffix}').unlink()
  publish()
  assert contents(publish.folder) == before
  made = {name for name, time in times(publish.folder).items() if time != old[name]}
  assert {name for name in made if name.startswith('f04')} == set()
  assert f'f06_warmup_digits{suffix}' in made


@pytest.mark.parametrize(
  ('arguments', 'expected'),
  [
    ((), '--workdir is missing'),
    (('--workdir={0}', 'quick'), "unexpected argument 'quick'"),
    (('--workdir={0}', '--resources=cpu=2'), 'did you mean cpus?'),
    (('--workdir={0}', '--quick', '--resources=cpus=4096'), 'more than this machine has'),
    (('--workdir={0}',), 'data set mnist is not prepared'),
  ],
)
def test_what_is_wrong_is_said_in_one_line(arguments, expected, refuse, tmp_path):
  arguments = [argument.format(tmp_path / 'w') for argument in arguments]
  line = refuse(*arguments, module='experiments.paper')
  assert expected in line
