"""The config of a run that is there already, for `--config`: it runs no code from the workdir.

  python -m experiments.run --config=experiments/recorded.py:W --workdir=W --mode=evaluate

`experiments.run` without --config means this.
"""

from ml_collections import ConfigDict

from experiments import storage, workdir


def get_config(folder: str = ''):
  return ConfigDict(workdir.read_config(storage.path(folder)))
