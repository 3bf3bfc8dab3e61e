"""Checkpoints: what is saved comes back bit for bit, structure and types included."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaediff import parallel
from vaediff.checkpoints import Checkpoints


class State(NamedTuple):
  step: jax.Array
  params: dict
  carry: tuple


def state(step: int) -> State:
  w = np.random.default_rng(step).normal(size=(3, 2)).astype(np.float32)
  return State(
    jnp.int32(step), {'w': w, 'b': jnp.asarray(w[0], jnp.bfloat16)}, (np.arange(step + 1),)
  )


@pytest.mark.parametrize('num_devices', [1, 8])
def test_the_newest_state_comes_back_on_any_number_of_devices(tmp_path, num_devices):
  with Checkpoints(tmp_path / 'checkpoints') as saved:
    assert saved.latest_step() is None
    for step in (10, 20):
      saved.save(step, parallel.replicate(state(step), jax.devices()[:num_devices]))
  assert sorted(p.name for p in (tmp_path / 'checkpoints').iterdir()) == ['10', '20']
  with Checkpoints(tmp_path / 'checkpoints') as saved:
    assert saved.latest_step() == 20
    restored = saved.restore(20, state(20))
  assert isinstance(restored, State)
  for expected, actual in zip(jax.tree.leaves(state(20)), jax.tree.leaves(restored), strict=True):
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)


def test_a_step_is_saved_once_and_only_the_newest_are_kept(tmp_path):
  with Checkpoints(tmp_path, keep=2) as saved:
    for step in (1, 2, 2, 3):
      saved.save(step, parallel.replicate(state(step), jax.devices()[:1]))
  assert sorted(p.name for p in tmp_path.iterdir()) == ['2', '3']


def test_what_is_written_is_the_state_when_save_was_called(tmp_path):
  """The write is asynchronous, and the next dispatch reuses the buffers it came from."""
  devices = jax.devices()[:1]
  step = parallel.pmap(lambda x: jax.tree.map(lambda a: a + 1, x), devices, donate_argnums=0)
  tree = {'w': np.zeros((512, 512), np.float32)}
  replicated = parallel.replicate(tree, devices)
  with Checkpoints(tmp_path) as saved:
    saved.save(0, replicated)
    for _ in range(10):
      replicated = step(replicated)
  with Checkpoints(tmp_path) as saved:
    np.testing.assert_array_equal(saved.restore(0, tree)['w'], 0)
