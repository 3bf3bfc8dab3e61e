"""Runs one experiment: trains, evaluates on the test split and samples.

  python -m experiments.run --config=configs/NAME.py[:tiny] --workdir=W
         [--mode=train|evaluate|sample|verify|replay] [--config.a.b=value ...] [--num_samples=N]
         [--distributed]

`train` (the default) does the first three; started again on the same workdir it resumes. `evaluate`
and `sample` use the newest checkpoint. `verify` evaluates a finished run again and says whether its
numbers still hold; `replay` does a training step again whose loss was not finite. Where the workdir
holds a run already, its own config is used if --config is left out.

Exit status: 0 done; 2 the input is wrong, with one line that says how to mend it; 1 anything else.
A run that SIGTERM or SIGINT has stopped saves, and ends by that signal: to a shell, 143 or 130.
"""

import errno
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments import compilation_cache, preemption, schema, storage
from vaediff import parallel
from vaediff.errors import InputError, RunError

MODES = ('train', 'evaluate', 'sample', 'verify', 'replay')

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file; --config.a.b=value overrides.'
)
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.')
MODE = flags.DEFINE_string('mode', 'train', f'One of {", ".join(MODES)}.')
NUM_SAMPLES = flags.DEFINE_integer('num_samples', None, 'Overrides sampling.num_samples.')
DISTRIBUTED = flags.DEFINE_bool(
  'distributed', False, 'This is one of several processes, on as many hosts, that share the run.'
)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns the exit status, or ends by the signal that stopped it."""
  # Until the guard of the run listens there is nothing to save, and an import that a
  # KeyboardInterrupt has broken off ends in any way.
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  if {'-h', '--help'} & set(argv[1:]):
    print(f'{__doc__}\n{flags.FLAGS.main_module_help()}')
    return 0
  try:
    config = parse(argv)
    # Imported here, not at the top: a wrong command line is answered before orbax is loaded.
    from experiments import stages

    compilation_cache.enable()
    batch_sizes = schema.batch_sizes(config)
    parallel.divide_cpu(config['cpu_devices'], [size // n for size, n in batch_sizes.values()])
    if DISTRIBUTED.value:
      parallel.start_processes()
      if not parallel.is_primary():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the primary says it
    stages.run(config, storage.path(WORKDIR.value), MODE.value)
  except InputError as error:
    return _fail(2, error)
  except (RunError, FloatingPointError) as error:
    return _fail(1, error)
  except OSError as error:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
      raise
    return _fail(1, f'{error}; what is written so far is whole: make room, and start again')
  except preemption.Stopped as stop:
    text = ' '.join(['stopped by', signal.Signals(stop.signum).name, *stop.args])
    print(f'{text}; the same command goes on', file=sys.stderr, flush=True)
    parallel.leave_processes()
    preemption.die(stop.signum)
  return 0


def _fail(status: int, reason) -> int:
  print(f'error: {" ".join(str(reason).split())}', file=sys.stderr)
  return status


def parse(argv: Sequence[str]) -> dict:
  """The resolved config, checked against the schema. Raises InputError for a wrong command line."""
  argv = _with_recorded_config(argv)
  _check_config_file(argv)
  try:
    rest = flags.FLAGS(argv)
    config = CONFIG.value.to_dict() if isinstance(CONFIG.value, ConfigDict) else None
  except InputError:
    raise
  except (Exception, SystemExit) as error:  # a config file is code, which may raise anything
    raise InputError(_unknown_override(argv) or ' '.join(str(error).split()[:60])) from error
  if rest[1:]:
    raise InputError(f'unexpected argument {rest[1]!r}; options have the form --name=value')
  if config is None:
    raise InputError('--config has to name a file whose get_config() returns a ConfigDict')
  if not WORKDIR.value:
    raise InputError(
      '--workdir is missing; usage: python -m experiments.run --config=FILE --workdir=FOLDER'
    )
  if MODE.value not in MODES:
    raise InputError(f'--mode is {MODE.value!r}; it is one of {", ".join(MODES)}')
  schema.check(config)
  if NUM_SAMPLES.value is not None:
    config['sampling']['num_samples'] = NUM_SAMPLES.value
    schema.check(config)
  return config


def _option(argv: Sequence[str], name: str) -> str | None:
  """The value of an option as it stands on the command line."""
  found = re.search(rf'^--?{name}[=\n](.*)$', '\n'.join(argv[1:]), re.MULTILINE)
  return found and found[1]


def _with_recorded_config(argv: Sequence[str]) -> Sequence[str]:
  """The command line; without --config, with the config that the workdir holds, if it does."""
  workdir = _option(argv, 'workdir')
  if _option(argv, 'config') or not workdir:
    return argv
  if not (storage.path(workdir) / 'config.json').exists():
    return argv
  recorded = Path(__file__).with_name('recorded.py')
  return [argv[0], f'--config={recorded}:{workdir}', *argv[1:]]


def _check_config_file(argv: Sequence[str]) -> None:
  """Raises InputError where --config is missing or names no file."""
  path = _option(argv, 'config')
  if path is None:
    raise InputError(
      '--config is missing; usage: python -m experiments.run --config=FILE --workdir=FOLDER'
    )
  if not Path(path.split(':')[0]).is_file():
    raise InputError(f'--config={path} names no file; the shipped configs are configs/NAME.py')


def _unknown_override(argv: Sequence[str]) -> str | None:
  """What is wrong with the first --config.NAME=value whose NAME the config does not have."""
  try:
    config = flags.FLAGS['config'].parser.parse(_option(argv, 'config'))
    names = schema.flatten(config.to_dict())
  except (Exception, SystemExit) as error:  # then it is the config file itself that is wrong
    # ml_collections puts the whole traceback into the message of these two.
    cause = error.__context__ if isinstance(error, TypeError | ValueError) else error
    return f'--config={_option(argv, "config")} gives no config ({type(cause).__name__}: {cause})'
  for name in re.findall(r'^--?config\.([^=\n]*)', '\n'.join(argv[1:]), re.MULTILINE):
    if name not in names:
      return f'{name} is not a field of this config{schema.nearest_name(name, names)}'
  return None


if __name__ == '__main__':
  sys.exit(main(sys.argv))
