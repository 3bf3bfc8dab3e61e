"""The folder of a run: which config it belongs to, and what its results came from."""

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from experiments import schema
from vaediff import reporting
from vaediff.errors import InputError

# Fields that say where things are, or how many samples to draw: they may change between starts.
ALWAYS_FREE = ('data.data_dir', 'sampling.num_samples')
# What a finished training does not depend on: `evaluate` and `sample` may vary it.
FREE_AFTER_TRAINING = (
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


def claim(workdir: Path, config: dict) -> None:
  """Makes the workdir this config's own. Raises InputError where it cannot be written."""
  path = workdir / 'config.json'
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=workdir):
      pass
    if not path.exists():
      reporting.write_json(path, config)
  except OSError as error:
    raise InputError(
      f'--workdir={workdir} cannot be written ({error.strerror}); choose a folder that can'
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


def config_hash(config: dict) -> str:
  """SHA-256 of the config, without the fields that may always change."""
  fields = {k: v for k, v in schema.flatten(config).items() if k not in ALWAYS_FREE}
  return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def provenance(config: dict) -> dict[str, str]:
  """What is needed to do a result again: commit, hash of the config, JAX version, device kind."""
  import jax

  device = jax.devices()[0]
  return {
    'commit': commit(),
    'config_sha256': config_hash(config),
    'jax': jax.__version__,
    'device': f'{len(jax.devices())} x {device.device_kind} ({device.platform})',
  }


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
