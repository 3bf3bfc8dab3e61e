"""The folder of a run: which config it belongs to, and what its results came from."""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import platform
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments import schema, storage
from vaediff import reporting
from vaediff.errors import InputError

# Fields that say where things are, or how many samples to draw: they may change between starts.
ALWAYS_FREE = ('data.data_dir', 'sampling.num_samples')
# What `evaluate` and `sample` may vary when training is finished.
FREE_AFTER_TRAINING = (
  'compute_dtype',
  'cpu_devices',
  'evaluation.batch_size',
  'evaluation.every',
  'evaluation.likelihood',
  'evaluation.num_draws',
  'evaluation.num_temperatures',
  'evaluation.num_times',
  'evaluation.divergence',
  'evaluation.time_terms',
  'fit.',
  'quality.',
  'sampler.',
  'sampling.',
)
# What a run writes.
FOLDERS = ('checkpoints', 'tensorboard')
FILES = ('config.json', 'metrics.jsonl', 'cost.json', 'results.json', 'samples.npz', 'samples.png')
# What the trial of a sweep has said.
LOG = 'log.txt'
# Packages whose version the numbers may depend on.
PACKAGES = ('jaxlib', 'flax', 'optax', 'numpy', 'scipy', 'scikit-learn')


def check(workdir: Path, config: dict, mode: str) -> None:
  """Checks that the workdir is this config's own, or new; writes nothing.

  Raises InputError where it holds a run of another config (naming the fields that differ), and
  where there is no run to evaluate or to sample from.
  """
  path = workdir / 'config.json'
  if path.exists():
    _check_same(path, config, mode)
  elif mode != 'train':
    raise InputError(f'--workdir={workdir} holds no run to {mode}; train one there first')


@contextlib.contextmanager
def claimed(workdir: Path, config: dict) -> Iterator[None]:
  """Makes the workdir this config's own, and this process's for as long as the block runs.

  Raises InputError as `locked` does, and where something else is in the place of its files.
  """
  path = workdir / 'config.json'
  for names, kind, is_in_the_way in (
    (FOLDERS, 'folder', lambda found: found.exists() and not found.is_dir()),
    (FILES, 'file', lambda found: found.is_dir()),
  ):
    for name in names:
      if is_in_the_way(workdir / name):
        raise InputError(f'{workdir / name} has to be a {kind}; move what is there away')
  with locked(workdir):
    if not path.exists():
      reporting.write_json(path, config)
    yield


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
  """Has the workdir, which is made where it is not there, for as long as the block runs.

  Raises InputError where it cannot be written, and where another process has it. The lock is the
  operating system's (flock), which ends with the process whatever ends it; object storage has none.
  """
  if storage.is_remote(workdir):
    try:
      (workdir / '.lock').write_text('')
    except Exception as error:  # the clients of object storage share no base class
      raise InputError(f'--workdir={workdir} cannot be written ({error})') from error
    yield
    return
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=workdir):
      pass
    lock = (workdir / '.lock').open('w')
  except OSError as error:
    raise InputError(
      f'--workdir={workdir} cannot be written ({error.strerror}); choose a folder that can'
    ) from error
  with lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise InputError(
        f'--workdir={workdir} is in use by another process; wait for its end, or choose another'
      ) from error
    yield


def read_config(workdir: Path) -> dict:
  """The config of the run in a workdir, checked. Raises InputError where it is not in order."""
  path = workdir / 'config.json'
  try:
    return checked_config(json.loads(path.read_text()))
  except (OSError, ValueError, InputError) as error:
    raise InputError(f'{path} cannot be read as a config ({error})') from error


def checked_config(recorded: Any) -> dict:
  """A config as JSON gives it back, with tuples for lists. Raises InputError for any other."""
  if not isinstance(recorded, dict):
    raise InputError(f'it is {recorded!r:.50}')
  config = _with_tuples(recorded)
  schema.check(config)
  return config


def _with_tuples(section: dict) -> dict:
  convert = {dict: _with_tuples, list: tuple}
  return {name: convert.get(type(value), lambda v: v)(value) for name, value in section.items()}


def read_results(workdir: Path) -> dict:
  """results.json, with its config checked. Raises InputError where it is not in order."""
  path = workdir / 'results.json'
  try:
    results = json.loads(path.read_text())
    for metric in results['metrics'].values():
      float(metric['value']), float(metric['stderr'])
    int(results['step'])
    return results | {'config': checked_config(results['provenance']['config'])}
  except (OSError, ValueError, LookupError, TypeError, AttributeError, InputError) as error:
    reason = ' '.join(f'{type(error).__name__}: {error}'.split())
    raise InputError(
      f'{path} cannot be read as results ({reason}); --mode=evaluate writes them again'
    ) from error


def is_finished(workdir: Path, config: dict, files: Sequence[str]) -> bool:
  """Whether the workdir has these files, and the results of this very config at its last step."""
  try:
    results = json.loads((workdir / 'results.json').read_text())
    recorded = results['step'], results['provenance']['config_sha256']
  except (OSError, ValueError, LookupError, TypeError):
    return False
  is_last = recorded == (config['training']['num_steps'], config_hash(config))
  return is_last and all((workdir / name).exists() for name in files)


def named(folder: Path, name: str, config: dict) -> Path:
  """Where the run of a name and a config is kept, among others: another config is another run."""
  return folder / f'{name}-{config_hash(config)[:8]}'


def failed_seeds(workdir: Path) -> dict[int, int]:
  """{seed: the step that was not finite} by results.json, of those that did not come to the end."""
  seeds = json.loads((workdir / 'results.json').read_text()).get('seeds', [])
  return {entry['seed']: entry['failed_at_step'] for entry in seeds if 'failed_at_step' in entry}


def config_hash(config: dict) -> str:
  """SHA-256 of the config, without the fields that may always change."""
  fields = {k: v for k, v in schema.flatten(config).items() if k not in ALWAYS_FREE}
  return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def provenance(config: dict) -> dict[str, Any]:
  """What is needed to do a result again: commit, config and its hash, versions, devices."""
  import jax

  return {
    'commit': commit(),
    'config_sha256': config_hash(config),
    'jax': jax.__version__,
    'device': devices(),
    'processes': jax.process_count(),
    'versions': versions(),
    'config': config,
  }


def identity(config: dict) -> dict[str, str]:
  """What all processes of a run have to have in common."""
  import jax

  fields = schema.flatten(config) | {'data.data_dir': ''}
  digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
  return {'config': digest, 'commit': commit(), 'jax': jax.__version__} | versions()


def devices() -> str:
  """The devices in words: their number, kind and platform."""
  import jax

  device = jax.devices()[0]
  return f'{len(jax.devices())} x {device.device_kind} ({device.platform})'


def versions() -> dict[str, str]:
  """Of Python and of the packages that numbers may depend on."""
  packages = {name: importlib.metadata.version(name) for name in PACKAGES}
  return {'python': platform.python_version()} | packages


def commit() -> str:
  """The project's commit, '-dirty' behind it where files differ from it; 'unknown' without git."""
  folder = Path(__file__).parent
  try:
    command = ['git', 'describe', '--always', '--dirty', '--abbrev=40', '--exclude=*']
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
  except (OSError, subprocess.CalledProcessError):
    return 'unknown'
  return done.stdout.strip()


def _check_same(path: Path, config: dict, mode: str) -> None:
  try:
    recorded = schema.flatten(json.loads(path.read_text()))
  except (OSError, ValueError, AttributeError) as error:
    raise InputError(f'{path} cannot be read ({error}); choose another workdir') from error
  # As JSON gives them back: tuples are lists.
  current = schema.flatten(json.loads(json.dumps(config)))
  free = ALWAYS_FREE if mode == 'train' else ALWAYS_FREE + FREE_AFTER_TRAINING
  differences = [
    f'{name} (there {recorded.get(name, "absent")}, here {current.get(name, "absent")})'
    for name in sorted(recorded.keys() | current.keys())
    if recorded.get(name) != current.get(name) and not name.startswith(free)
  ]
  if differences:
    raise InputError(
      f'{path.parent} holds a run of another config: {"; ".join(differences)}; use the same config '
      'or another workdir'
    )
