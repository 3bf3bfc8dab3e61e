"""The folder of a run: which config it belongs to, and what its results came from."""

import hashlib
import json
import subprocess
from pathlib import Path

from experiments import schema
from vaediff import reporting
from vaediff.errors import InputError

# Fields that say where things are, not what is computed: they may change between starts.
LOCATIONS = ('data.data_dir',)
# Sections that a finished training does not depend on: evaluation and sampling may vary them.
AFTER_TRAINING = ('evaluation.', 'sampling.', 'sampler.')


def claim(workdir: Path, config: dict, mode: str) -> None:
  """Makes the workdir this config's own, or checks that it is.

  Raises InputError where the folder cannot be written, where it holds a run of another config
  (naming the fields that differ), and where there is no run to evaluate or to sample from.
  """
  path = workdir / 'config.json'
  if path.exists():
    _check_same(path, config, mode)
  elif mode != 'train':
    raise InputError(f'--workdir={workdir} holds no run to {mode}; train one there first')
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    if not path.exists():
      reporting.write_json(path, config)
    (workdir / 'tensorboard').mkdir(exist_ok=True)
  except OSError as error:
    raise InputError(
      f'--workdir={workdir} cannot be written ({error.strerror}); choose a folder that can'
    ) from error


def provenance(config: dict) -> dict[str, str]:
  """What is needed to do a result again: commit, hash of the config, JAX version, device kind."""
  import jax

  device = jax.devices()[0]
  return {
    'commit': commit(),
    'config_sha256': hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
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
  except (OSError, ValueError) as error:
    raise InputError(f'{path} cannot be read ({error}); choose another workdir') from error
  # As JSON gives them back: tuples are lists.
  current = schema.flatten(json.loads(json.dumps(config)))
  free = LOCATIONS if mode == 'train' else LOCATIONS + AFTER_TRAINING
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
