"""Every test sees eight virtual CPU devices, so that one device and eight can be compared."""

import gc
import importlib.metadata
import os

import pytest

# Compiling takes most of a test's time: without optimisation it takes half as long, and without
# the emitters of fusions, which later versions always have, less than two thirds of that.
QUICK = '--xla_backend_optimization_level=0'
if importlib.metadata.version('jax').startswith('0.10.'):
  QUICK += ' --xla_cpu_use_fusion_emitters=false'
# What has a fast path is tested as runs compile it too: see scripts/test.sh.
QUICK = os.environ.get('TEST_XLA_FLAGS', QUICK)
# Programs that tests start have other devices, and are as quick to compile.
os.environ['QUICK_XLA_FLAGS'] = QUICK
os.environ['XLA_FLAGS'] = f'--xla_force_host_platform_device_count=8 {QUICK}'
os.environ['JAX_PLATFORMS'] = 'cpu'


@pytest.fixture(scope='session', autouse=True)
def _data_dir(tmp_path_factory):
  """Digits are prepared into a folder of the test run's own, not into the user's."""
  os.environ['TFDS_DATA_DIR'] = str(tmp_path_factory.mktemp('tfds'))


@pytest.fixture(scope='session', autouse=True)
def _keep_what_was_imported():
  """Collections of garbage do not look through it, and come less often: a tenth of all time."""
  import flax.linen  # noqa: F401
  import optax  # noqa: F401

  gc.collect()
  gc.freeze()
  gc.set_threshold(20_000)


@pytest.fixture(scope='module', autouse=True)
def _forget_programs():
  """A process has room for the compiled programs of a few modules, not for those of all.

  Each is some memory maps, of which Linux allows a process 65,530 and then has it crash.
  """
  yield
  import jax

  jax.clear_caches()
  gc.collect()


@pytest.fixture(scope='session')
def train():
  """train(experiment, ...) -> Variables before, Variables after, metrics {name: [num_steps]}.

  The project's own step, all steps in one dispatch on one device.
  """
  import jax
  import numpy as np

  from vaediff import data, parallel, training
  from vaediff.methods.base import Batch

  devices = jax.devices()[:1]

  def train(experiment, num_steps=10, batch_size=32):
    method, optimizer, observe = experiment.method, experiment.optimizer, experiment.observe
    split = experiment.dataset.train
    batch = Batch(split.x[:2], split.label[:2], np.arange(2, dtype=np.int32))
    dispatch = training.make_dispatch(method, optimizer, observe, batch_size, 0.9, devices)
    state = training.init(jax.random.key(0), method, optimizer, batch)
    indices = data.indices(0, 0, num_steps * batch_size, len(split.x)).astype(np.int32)
    trained, metrics, _ = dispatch(
      parallel.replicate(state, devices),
      np.int32(0),
      jax.random.key(1),
      *parallel.replicate((split.x, split.label), devices),
      indices.reshape(1, num_steps, batch_size),
    )
    after = parallel.unreplicate(trained).variables
    return state.variables, after, parallel.unreplicate(metrics)

  return train
