"""Moving arrays to devices and back; sums and gathers over the device axis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaediff import parallel
from vaediff.errors import InputError

DEVICES = jax.devices()[:4]


def test_shard_and_unshard_are_inverse():
  tree = {'a': np.arange(24.0).reshape(8, 3), 'b': np.arange(8)}
  sharded = parallel.shard(tree, DEVICES)
  assert sharded['a'].shape == (4, 2, 3)
  assert [s.device for s in sharded['a'].addressable_shards] == DEVICES
  for name, value in parallel.unshard(sharded).items():
    np.testing.assert_array_equal(value, tree[name])


def test_replicate_and_unreplicate_are_inverse():
  tree = {'a': jnp.arange(3.0), 'n': jnp.int32(4)}
  replicated = parallel.replicate(tree, DEVICES)
  assert replicated['a'].shape == (4, 3)
  for name, value in parallel.unreplicate(replicated).items():
    np.testing.assert_array_equal(value, tree[name])


def test_unreplicated_arrays_survive_the_donation_of_their_source():
  replicated = parallel.replicate(jnp.ones(1000), DEVICES)
  own = parallel.unreplicate(replicated)
  double = parallel.pmap(lambda x: x * 2, DEVICES, donate_argnums=0)
  doubled = double(replicated)
  assert replicated.is_deleted()
  np.testing.assert_array_equal(own, 1)
  np.testing.assert_array_equal(doubled, 2)


def test_sum_gather_and_index():
  def f(x):
    index = parallel.device_index()
    return parallel.sum_over_devices(x.sum()), parallel.gather_over_devices(x), index

  x = np.arange(8.0)
  total, gathered, index = parallel.pmap(f, DEVICES)(parallel.shard(x, DEVICES))
  np.testing.assert_array_equal(total, x.sum())
  np.testing.assert_array_equal(gathered, np.broadcast_to(x, (4, 8)))
  np.testing.assert_array_equal(index, np.arange(4))


def test_arrays_that_are_summed_as_one_are_each_summed():
  """Of several types and shapes, an empty one and a scalar among them, beside the plain sum."""
  tree = {
    'a': np.arange(24, dtype=np.float32).reshape(4, 2, 3),
    'b': np.arange(4, dtype=np.int32),
    'c': np.zeros((4, 0), np.float32),
    'd': (np.full((4, 1), 0.5, np.float32), np.arange(8, dtype=np.int32).reshape(4, 2)),
  }
  both = parallel.pmap(
    lambda tree: (parallel.sum_over_devices(tree), jax.lax.psum(tree, parallel.AXIS)), DEVICES
  )
  ours, plain = both(parallel.place(tree, DEVICES))
  jax.tree.map(np.testing.assert_array_equal, ours, plain)
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b.sum(0)), ours, tree)


@pytest.mark.parametrize(
  ('num_devices', 'batch_sizes', 'expected'),
  [
    (0, (64, 500, 64), 4),
    (0, (120, 300, 64), 4),
    (0, (99, 300), 3),  # four do not divide 99
    (0, (16, 512), 2),  # eight examples for each
    (0, (4, 512), 1),
    (1, (64, 512), 1),
    (7, (64, 512), 7),  # refused later, with the name of the batch
  ],
)
def test_a_cpu_of_four_cores_is_divided(monkeypatch, num_devices, batch_sizes, expected):
  monkeypatch.setenv('XLA_FLAGS', '')
  monkeypatch.setenv('NPROC', '4')
  updates = {}
  monkeypatch.setattr(jax.config, 'update', updates.__setitem__)
  parallel.divide_cpu(num_devices, batch_sizes)
  assert updates == {'jax_num_cpu_devices': expected}


def test_the_environment_has_the_last_word_on_the_division_of_a_cpu():
  parallel.divide_cpu(2, (64,))  # with a backend, JAX itself would raise
  assert len(jax.devices()) == 8


def test_processes_that_say_different_things_are_named(monkeypatch):
  """Process after process is added; the second and the fourth have another version."""
  said = [{'config': 'c', 'optax': optax} for optax in ('1', '2', '1', '2')]
  digests = []

  def gather(own):
    digests.append(own)
    return np.array(digests)

  monkeypatch.setattr(parallel, 'is_alone', lambda: False)
  monkeypatch.setattr(parallel.multihost_utils, 'process_allgather', gather)
  monkeypatch.setattr(jax, 'process_index', lambda: 3)
  parallel.check_equal(said[0])
  with pytest.raises(InputError, match='processes 1 of 2 have another optax than process 0'):
    parallel.check_equal(said[1])
  with pytest.raises(InputError, match='processes 1 of 3 have another optax'):
    parallel.check_equal(said[2])
  with pytest.raises(InputError, match=r'processes 1, 3 of 4 .*this is process 3, which has 2;'):
    parallel.check_equal(said[3])
