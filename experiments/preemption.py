"""SIGTERM and SIGINT: a run that is told to stop saves where it is, and stops."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

from vaediff import parallel

SIGNALS = (signal.SIGTERM, signal.SIGINT)
AGAIN_SECONDS = 0.05


class Stopped(BaseException):
  """The run was told to stop. No Exception, so that nothing takes it for a fault and goes on."""

  def __init__(self, signum: int, *message: str):
    super().__init__(*message)
    self.signum = signum


class Guard:
  """Between its start and its end the first SIGTERM or SIGINT raises Stopped.

  At once, or where a block is `deferred` when the code asks `is_requested`, at the latest when the
  block ends. A second SIGINT ends the process at once; more SIGTERMs are ignored. Signals reach the
  main thread of a process alone; elsewhere a guard does nothing.

  With several processes JAX's preemption service watches SIGTERM instead, and `is_requested` is the
  one place that hears of it: all processes stop after the same step.
  """

  def __init__(self):
    self._signum, self._is_deferred = None, False
    self._previous, self._previous_hook = {}, None

  def is_requested(self, count: int) -> bool:
    """Whether the run was told to stop. With several processes: asked by all, count = 0, 1, ..."""
    if parallel.reached_preemption(count):
      self._signum = signal.SIGTERM
    return self._signum is not None

  def stop(self, *message: str) -> None:
    """Raises Stopped, with the signal that asked for it."""
    raise Stopped(self._signum, *message)

  @contextlib.contextmanager
  def deferred(self, is_deferred: bool = True) -> Iterator[None]:
    """A block in which a signal waits for `is_requested`; deferred(False) is the way back.

    Raises Stopped where a signal has waited and need not any more: at the end of the one, or at the
    beginning of the other.
    """
    before = self._is_deferred
    try:
      self._defer(is_deferred)
      yield
    finally:
      self._is_deferred = before
    self._defer(before)

  def __enter__(self):
    if threading.current_thread() is threading.main_thread():
      self._previous = {signum: signal.getsignal(signum) for signum in (*SIGNALS, signal.SIGALRM)}
      self._previous_hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
      signal.signal(signal.SIGALRM, lambda *_: self._defer(self._is_deferred))
      if parallel.is_alone():
        signal.signal(signal.SIGTERM, self._hear)
        signal.signal(signal.SIGINT, self._hear)
      else:
        signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    return self

  def __exit__(self, *_) -> None:
    if self._previous:
      signal.setitimer(signal.ITIMER_REAL, 0)
      sys.unraisablehook = self._previous_hook
    for signum, handler in self._previous.items():
      signal.signal(signum, handler)

  def _hear(self, signum: int, _) -> None:
    if self._signum is None:
      self._signum = signum
      signal.signal(signal.SIGINT, signal.SIG_DFL)
      self._defer(self._is_deferred)

  def _unraisable(self, unraisable) -> None:
    """Has Stopped raised again a little later where Python could not raise it.

    That is so inside the collection of garbage, among others, which JAX hooks into.
    """
    if isinstance(unraisable.exc_value, Stopped):
      signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
    else:
      self._previous_hook(unraisable)

  def _defer(self, is_deferred: bool) -> None:
    self._is_deferred = is_deferred
    if self._signum is not None and not is_deferred:
      self.stop()


def die(signum: int) -> None:
  """Ends this process by the signal, as if it had never been caught: the status says which."""
  sys.stdout.flush()
  signal.signal(signum, signal.SIG_DFL)
  os.kill(os.getpid(), signum)
