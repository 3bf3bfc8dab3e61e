"""Runs on object storage, which `object_store.py` stands for: the same files, and they resume."""

import json
import shutil

import pytest

from experiments import storage
from vaediff.errors import InputError

TINY = '--config=configs/digits_vae.py:tiny'


@pytest.mark.parametrize('scheme', ['gs', 's3'])
def test_a_run_on_object_storage_resumes_and_ends_as_in_a_folder(scheme, tmp_path, succeed):
  def run(workdir: str):
    arguments = 'experiments.run', TINY, f'--workdir={workdir}'
    return succeed(*arguments, module='tests.experiments.object_store', OBJECTS=str(tmp_path))

  done = run(f'{scheme}://bucket/runs/w')
  assert f'{scheme}://bucket/runs/w cannot be locked' in done.stderr
  objects = tmp_path / 'bucket' / 'runs' / 'w'
  found = {path.name for path in objects.iterdir()}
  names = ('config.json', 'metrics.jsonl', 'results.json', 'samples.npz', 'samples.png')
  assert found - {'cost.json'} == {*names, 'checkpoints', 'tensorboard', '.lock'}
  before = {name: (objects / name).read_bytes() for name in names}
  # As it was after the first of its two checkpoints.
  shutil.rmtree(objects / 'checkpoints' / '20')
  for name in ('results.json', 'samples.png'):
    (objects / name).unlink()
  lines = before['metrics.jsonl'].splitlines(keepends=True)
  (objects / 'metrics.jsonl').write_bytes(b''.join(lines[:2]))
  assert '10/20' in run(f'{scheme}://bucket/runs/w').stderr
  assert {path.name for path in (objects / 'checkpoints').iterdir()} == {'10', '20'}
  if scheme == 's3':
    objects = tmp_path / 'folder'
    run(objects)
  for name in ('config.json', 'metrics.jsonl', 'samples.png'):
    assert (objects / name).read_bytes() == before[name]
  texts = before['results.json'], (objects / 'results.json').read_bytes()
  one, other = (json.loads(text)['metrics'] for text in texts)
  assert one == other


def test_folders_are_folders():
  assert storage.path('a/b') == storage.Path('a/b')
  assert not storage.is_remote(storage.path('/a/b'))


@pytest.mark.parametrize('text', ['az://bucket/w', 'memory://w', 'http://host/w'])
def test_other_storage_is_refused(text):
  with pytest.raises(InputError, match=r'another kind than a folder or gs:// or s3://'):
    storage.path(text)


def test_what_a_folder_has_is_not_copied(tmp_path):
  with storage.local_copy(tmp_path, ('a',)) as (own, publish):
    (own / 'a').write_text('x')
    publish()
  assert own == tmp_path
  assert (tmp_path / 'a').read_text() == 'x'
