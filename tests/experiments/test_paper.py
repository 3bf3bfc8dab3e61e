"""The paper: what one command makes, and what it makes again."""

import copy
import json

import pytest

from configs import paper as runs
from experiments import claims, publishing, workdir
from experiments.figures import figure
from experiments.trials import parse_resources
from vaediff.errors import RunError

# The paper is made once, by one of the processes that share the tests.
pytestmark = pytest.mark.xdist_group('paper')

NAMES = ('f04_divergence', 'f06_warmup')
STEMS = ('f04_divergence', 'f06_warmup_digits')
# Written each time.
WORDS = {'claims.json', 'claims.md', 'results.json', 'results.md', 'index.html'}


@pytest.fixture(scope='module')
def publish(tmp_path_factory):
  """publish(): makes a paper of two figures, of tiny runs; its folder is publish.folder."""
  folder = tmp_path_factory.mktemp('paper')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      publishing,
      '_configs',
      lambda dataset, quick: {
        name: runs.get_config(f'{dataset}_{name},tiny').to_dict() for name in runs.RUNS
      },
    )

    def publish():
      publishing.publish(folder, True, ('digits',), NAMES, parse_resources([], {}), num_workers=2)

    publish.folder = folder
    publish()
    yield publish


def contents(folder):
  return {path.name: path.read_bytes() for path in sorted((folder / 'paper').iterdir())}


def times(folder):
  return {path.name: path.stat().st_mtime_ns for path in (folder / 'paper').iterdir()}


def test_one_command_makes_all(publish):
  expected = {f'{stem}{suffix}' for stem in STEMS for suffix in ('.npz', '.pdf', '.png')}
  assert set(contents(publish.folder)) == expected | WORDS
  text = (publish.folder / 'paper' / 'index.html').read_text()
  for stem in STEMS:
    assert f'src="{stem}.png"' in text
    assert f'id="{stem}"' in text
  judged = json.loads((publish.folder / 'paper' / 'claims.json').read_text())
  on_them = [claim.says for claim in claims.CLAIMS if claim.figure in NAMES]
  assert [entry['claim'] for entry in judged['claims']] == on_them
  assert f'at commit {claims.computed_at(judged["commits"])}.' in text


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


def test_a_figure_whose_code_has_changed_is_made_again(publish):
  path = publish.folder / 'paper' / 'f04_divergence.npz'
  before = path.read_bytes()
  arrays, provenance = figure.load(path)
  figure.save(path, {name: 0 * a for name, a in arrays.items()}, provenance | {'code': 'before'})
  publish()
  assert path.read_bytes() == before


def test_a_run_of_another_config_is_another_run(publish, monkeypatch):
  """The paper of longer runs in the same folder trains them from the start."""
  before = {path.name for path in (publish.folder / 'runs').iterdir()}
  configs = publishing._configs('digits', quick=True)
  name = 'vae_warmup'
  configs[name] = copy.deepcopy(configs[name])
  configs[name]['optimizer']['learning_rate'] *= 2
  monkeypatch.setattr(publishing, '_configs', lambda dataset, quick: configs)
  publish()
  (made,) = {path.name for path in (publish.folder / 'runs').iterdir()} - before
  assert made.startswith(f'digits_{name}-')
  metrics = (publish.folder / 'runs' / made / 'metrics.jsonl').read_text().splitlines()
  assert min(json.loads(line)['step'] for line in metrics) <= 10
  monkeypatch.undo()


def test_a_seed_that_has_failed_is_named(publish):
  config = publishing._configs('digits', quick=True)['vae_warmup']
  folder = workdir.named(publish.folder / 'runs', 'digits_vae_warmup', config)
  results = (folder / 'results.json').read_text()
  changed = json.loads(results)
  changed['seeds'][1] = {'seed': 1, 'failed_at_step': 7}
  (folder / 'results.json').write_text(json.dumps(changed))
  (publish.folder / 'paper' / 'f06_warmup_digits.npz').unlink()
  with pytest.raises(RunError, match='step 7 of seed 1 was not finite'):
    publish()
  (folder / 'results.json').write_text(results)
  publish()


@pytest.mark.parametrize(
  ('arguments', 'expected'),
  [
    ((), '--workdir is missing'),
    (('--workdir={0}', 'quick'), "unexpected argument 'quick'"),
    (('--workdir={0}', '--resources=cpu=2'), 'did you mean cpus?'),
    (('--workdir={0}', '--quick', '--resources=cpus=4096'), 'more than this machine has'),
    (('--workdir={0}',), 'data set mnist is not prepared'),
    (('--workdir={0}', '--workers=0'), '--workers'),
    (('--workdir={0}', '--figures=f1'), "'f1', which is none of f01_autoencoder, f02"),
    (('--workdir={0}', '--only=digits,cifar10'), "'cifar10', which is none of digits, mnist"),
    (('--workdir=gs://bucket/w',), 'is no folder'),
  ],
)
def test_what_is_wrong_is_said_in_one_line(arguments, expected, refuse, tmp_path):
  arguments = [argument.format(tmp_path / 'w') for argument in arguments]
  line = refuse(*arguments, module='experiments.paper')
  assert expected in line
