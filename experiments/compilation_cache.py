"""Compiled programs that are kept from one start to the next."""

import os
from pathlib import Path

import jax


def enable() -> None:
  """Keeps compiled programs in the user's cache folder, where the environment names no other.

  All of them: those that compile in less than a second make up most of a short run's start.
  """
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    jax.config.update('jax_compilation_cache_dir', str(cache / 'vaediff' / 'jax'))
  if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
