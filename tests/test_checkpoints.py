"""Checkpoints: what is saved comes back bit for bit, and what is damaged is never used."""

import logging
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaediff import parallel
from vaediff.checkpoints import Checkpoints
from vaediff.errors import InputError, RunError

DEVICES = jax.devices()[:1]


class State(NamedTuple):
  step: jax.Array
  params: dict
  carry: tuple


def state(step: int) -> State:
  w = np.random.default_rng(step).normal(size=(3, 2)).astype(np.float32)
  return State(
    jnp.int32(step),
    {'w': w, 'b': jnp.asarray(w[0], jnp.bfloat16)},
    (np.arange(step + 1, dtype=np.int32),),
  )


def fixed_size(step: int) -> dict:
  """A state whose shapes are the same at every step, of several chunks of numbers."""
  return {'w': np.random.default_rng(step).normal(size=(100, 70)).astype(np.float32)}


def assert_identical(a, b):
  for expected, actual in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize('num_devices', [1, 8])
def test_the_newest_state_comes_back_on_any_number_of_devices(tmp_path, num_devices):
  with Checkpoints(tmp_path / 'checkpoints') as saved:
    assert saved.restore_newest(state(20)) is None
    for step in (10, 20):
      saved.save(step, parallel.replicate(state(step), jax.devices()[:num_devices]))
  assert sorted(p.name for p in (tmp_path / 'checkpoints').iterdir()) == ['10', '20']
  with Checkpoints(tmp_path / 'checkpoints') as saved:
    step, restored = saved.restore_newest(state(20))
  assert step == 20
  assert isinstance(restored, State)
  assert_identical(state(20), restored)


def test_a_step_is_saved_once_and_only_the_newest_are_kept(tmp_path):
  with Checkpoints(tmp_path, keep=2) as saved:
    for step in (1, 2, 2, 3):
      saved.save(step, parallel.replicate(state(step), DEVICES))
    saved.wait()
    assert saved.steps() == [3, 2]
  assert sorted(p.name for p in tmp_path.iterdir()) == ['2', '3']


def test_what_is_written_is_the_state_when_save_was_called(tmp_path):
  """The write is asynchronous, and the next dispatch reuses the buffers it came from."""
  step = parallel.pmap(lambda x: jax.tree.map(lambda a: a + 1, x), DEVICES, donate_argnums=0)
  tree = {'w': np.zeros((512, 512), np.float32)}
  replicated = parallel.replicate(tree, DEVICES)
  with Checkpoints(tmp_path) as saved:
    saved.save(0, replicated)
    for _ in range(10):
      replicated = step(replicated)
  with Checkpoints(tmp_path) as saved:
    np.testing.assert_array_equal(saved.restore_newest(tree)[1]['w'], 0)


@pytest.fixture(scope='module')
def two(tmp_path_factory):
  """A folder with the checkpoints of steps 10 and 20."""
  folder = tmp_path_factory.mktemp('two') / 'checkpoints'
  with Checkpoints(folder) as saved:
    for step in (10, 20):
      saved.save(step, parallel.replicate(fixed_size(step), DEVICES))
  return folder


def truncated(data: bytes) -> bytes:
  return data[: len(data) // 2]


def overwritten(data: bytes) -> bytes:
  """The same length, with 16 bytes in the middle that are others than before."""
  middle = len(data) // 2
  others = bytes(byte ^ 0x55 for byte in data[middle : middle + 16])
  return data[:middle] + others + data[middle + len(others) :]


@pytest.mark.parametrize('damage', [truncated, overwritten, None])
def test_no_damaged_file_becomes_a_wrong_number(two, tmp_path, caplog, damage):
  """Whichever file of the newest checkpoint is truncated, overwritten or gone."""
  num_used = 0
  names = sorted(path.relative_to(two) for path in (two / '20').rglob('*') if path.is_file())
  assert len(names) > 5
  for number, name in enumerate(names):
    folder = tmp_path / str(number) / 'checkpoints'
    shutil.copytree(two, folder)
    if damage is None:
      (folder / name).unlink()
    else:
      (folder / name).write_bytes(damage((folder / name).read_bytes()))
    caplog.clear()
    with caplog.at_level(logging.WARNING), Checkpoints(folder) as saved:
      step, restored = saved.restore_newest(fixed_size(0))
    assert_identical(fixed_size(step), restored)
    num_used += step == 20
    if step == 10:  # then it was said, and the damaged one is out of the way, though not gone
      assert f'{folder / "20"} is damaged' in caplog.text
      assert not (folder / '20').exists()
      assert (folder.parent / 'damaged' / '20').is_dir()
  # Some files hold nothing that the state depends on.
  assert 0 < num_used < len(names)


def test_a_wrong_digit_in_the_record_is_damage_and_no_other_model(two, tmp_path):
  folder = tmp_path / 'checkpoints'
  shutil.copytree(two, folder)
  record = folder / '20' / 'contents' / 'metadata'
  assert '100' in record.read_text()
  record.write_text(record.read_text().replace('100', '101', 1))
  with Checkpoints(folder) as saved:
    assert saved.restore_newest(fixed_size(0))[0] == 10


def test_after_damage_the_step_is_saved_again(two, tmp_path):
  folder = tmp_path / 'checkpoints'
  shutil.copytree(two, folder)
  shutil.rmtree(folder / '20' / 'state')
  with Checkpoints(folder) as saved:
    assert saved.restore_newest(fixed_size(0))[0] == 10
    saved.save(20, parallel.replicate(fixed_size(20), DEVICES))
  with Checkpoints(folder) as saved:
    step, restored = saved.restore_newest(fixed_size(0))
  assert step == 20
  assert_identical(fixed_size(20), restored)


def test_reading_leaves_a_damaged_folder_as_it_is(two, tmp_path):
  folder = tmp_path / 'checkpoints'
  shutil.copytree(two, folder)
  (folder / '20' / 'contents' / 'metadata').write_text('{')
  before = sorted(tmp_path.rglob('*'))
  with Checkpoints(folder, read_only=True) as saved:
    assert saved.restore_newest(fixed_size(0))[0] == 10
  assert sorted(tmp_path.rglob('*')) == before


def test_without_a_sound_checkpoint_nothing_starts_anew(two, tmp_path):
  folder = tmp_path / 'checkpoints'
  shutil.copytree(two, folder)
  for step in ('10', '20'):
    shutil.rmtree(folder / step / 'contents')
  with Checkpoints(folder) as saved, pytest.raises(RunError, match=r'no sound .* \(steps 20, 10'):
    saved.restore_newest(fixed_size(0))


@pytest.mark.parametrize(
  ('template', 'words'),
  [
    (
      {'w': np.zeros((100, 71), np.float32)},
      r'w is float32 \[100, 70\] there and float32 \[100, 71',
    ),
    ({'w': np.zeros((100, 70), np.int32)}, r'w is float32 \[100, 70\] there and int32'),
    ({'w': np.zeros((100, 70), np.float32), 'b': np.zeros(3)}, r'b is absent there and float32'),
    ({'v': np.zeros((100, 70), np.float32)}, r'v is absent there'),
  ],
)
def test_a_checkpoint_of_another_model_is_refused(two, template, words):
  with Checkpoints(two, read_only=True) as saved, pytest.raises(InputError, match=words):
    saved.restore_newest(template)


def test_what_is_not_finite_is_not_saved(tmp_path):
  wrong = {'w': np.array([1, np.inf], np.float32)}
  with (
    Checkpoints(tmp_path) as saved,
    pytest.raises(RunError, match='w is not finite after step 3'),
  ):
    saved.save(3, parallel.replicate(wrong, DEVICES))
  assert not list(tmp_path.iterdir())


def test_rests_of_an_interrupted_write_are_cleared(two, tmp_path):
  folder = tmp_path / 'checkpoints'
  shutil.copytree(two, folder)
  (folder / '20').rename(folder / '20.orbax-checkpoint-tmp')
  with Checkpoints(folder) as saved:
    assert saved.steps() == [10]
    # They are cleared in the background, and have gone before anything is saved.
    saved.save(30, parallel.replicate(fixed_size(30), DEVICES))
  assert sorted(path.name for path in folder.iterdir()) == ['10', '30']


def test_what_was_not_deleted_in_time_is_deleted_at_the_next_start(tmp_path):
  with Checkpoints(tmp_path, keep=4) as saved:
    for step in (10, 20, 30, 40):
      saved.save(step, parallel.replicate(fixed_size(step), DEVICES))
  shutil.rmtree(tmp_path / '10' / 'state')
  (tmp_path / '10' / '_CHECKPOINT_METADATA').unlink()
  with Checkpoints(tmp_path, keep=2) as saved:
    assert saved.restore_newest(fixed_size(0))[0] == 40
    assert saved.steps() == [40, 30]
  assert sorted(path.name for path in tmp_path.iterdir()) == ['30', '40']
