"""Runs one trial of a sweep: what experiments.run does, for as long as there is the sweep.

  python -m experiments.trial --workdir=W [any other option of experiments.run]

Standard input is a pipe from the process that has started the trial. Where that process ends, in
whatever way, the trial saves and stops as by SIGTERM, and is killed if it does not. A trial waits
until the one before it, which may still be saving, has left the workdir.
"""

import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from experiments import storage

# How long a trial may take to save and stop.
STOP_SECONDS = 60
_POLL_SECONDS = 0.1


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns the exit status, or ends by the signal that stopped it."""
  threading.Thread(target=_end_with_the_sweep, daemon=True).start()
  (workdir,) = (a.partition('=')[2] for a in argv if a.startswith('--workdir='))
  if not storage.is_remote(storage.path(workdir)):
    _wait_for_lock(Path(workdir) / '.lock')
  from experiments import run  # not at the top: its options are not those of the sweep

  return run.main(argv)


def _end_with_the_sweep() -> None:
  # A blocked read of sys.stdin would be in the way of the interpreter's end.
  while os.read(0, 1):
    pass
  os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(STOP_SECONDS)
  os.kill(os.getpid(), signal.SIGKILL)


def _wait_for_lock(path: Path) -> None:
  """Until no process has the workdir of this lock, or until it should have stopped."""
  end = time.monotonic() + STOP_SECONDS
  while path.exists() and time.monotonic() < end:
    with path.open('w') as lock:
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
      except BlockingIOError:
        time.sleep(_POLL_SECONDS)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
