"""What the programs beside `experiments.run` share: their command line, and their exit status."""

import signal
import sys
from collections.abc import Callable, Sequence

from absl import flags

from experiments import preemption
from vaediff.errors import InputError, RunError


def parse(argv: Sequence[str], usage: str, required: Sequence[str]) -> None:
  """Reads the flags. Raises InputError for a wrong command line.

  usage: the command, for the line that says which of the required flags is missing.
  """
  try:
    rest = flags.FLAGS(argv)
  except flags.Error as error:
    raise InputError(error) from error
  if rest[1:]:
    raise InputError(f'unexpected argument {rest[1]!r}; options have the form --name=value')
  for name in required:
    if not flags.FLAGS[name].value:
      raise InputError(f'--{name} is missing; usage: {usage}')


def exit_status(argv: Sequence[str], text: str, body: Callable[[], int]) -> int:
  """That of body(), or of what it has raised, said in one line; or ends by the signal that came.

  text: what --help says of the program.
  """
  if {'-h', '--help'} & set(argv[1:]):
    print(f'{text}\n{flags.FLAGS.main_module_help()}')
    return 0
  try:
    return body()
  except (InputError, RunError) as error:
    print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
    return 2 if isinstance(error, InputError) else 1
  except preemption.Stopped as stop:
    stopped = f'stopped by {signal.Signals(stop.signum).name}; the same command goes on'
    print(stopped, file=sys.stderr, flush=True)
    preemption.die(stop.signum)
