"""Compiled programs that are kept from one start to the next."""

import os
import re
import warnings
from pathlib import Path

import jax

# What JAX warns of where an entry cannot be read, with the name of the program.
_BROKEN = re.compile("Error reading persistent compilation cache entry for '([^']+)'")


def enable() -> None:
  """Keeps compiled programs in the user's cache folder, where the environment names no other.

  All of them: those that compile in less than a second make up most of a short run's start. Several
  processes may share the folder. An entry that cannot be read, as one that a process was killed
  while it wrote, is taken away and written again: JAX by itself would compile that program, with a
  warning, at every start.
  """
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    jax.config.update('jax_compilation_cache_dir', str(cache / 'vaediff' / 'jax'))
  if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  _mend_broken_entries()


def _mend_broken_entries() -> None:
  """Takes away all entries by the name of a program, once JAX has warned of one of them.

  JAX compiles the program after that, and writes what is not there.
  """
  show = warnings.showwarning

  def mend(message, *arguments, **options) -> None:
    broken = _BROKEN.match(str(message))
    if not broken or not _remove_entries(broken[1]):
      show(message, *arguments, **options)

  warnings.showwarning = mend


def _remove_entries(name: str) -> bool:
  """Whether there were any, in a folder that we may write to."""
  entries = list(Path(jax.config.jax_compilation_cache_dir).glob(f'{name}-*-cache'))
  try:
    for entry in entries:
      entry.unlink(missing_ok=True)
  except OSError:
    return False
  return bool(entries)
