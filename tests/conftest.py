"""Every test sees eight virtual CPU devices, so that one device and eight can be compared."""

import os

import pytest

# Compiling takes most of a test's time: without optimisation it takes half as long.
os.environ['XLA_FLAGS'] = (
  '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0'
)
os.environ['JAX_PLATFORMS'] = 'cpu'


@pytest.fixture(scope='session', autouse=True)
def _data_dir(tmp_path_factory):
  """Digits are prepared into a folder of the test run's own, not into the user's."""
  os.environ['TFDS_DATA_DIR'] = str(tmp_path_factory.mktemp('tfds'))
