"""The folder of compiled programs: shared by processes, and mended where an entry is broken."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import pytest

from experiments import compilation_cache

BROKEN = "Error reading persistent compilation cache entry for '{}': Error: incomplete"
# Compiles a program, and prints what it computes and how many programs the cache had.
PROGRAM = """
import jax, jax.numpy as jnp
from jax import monitoring
from experiments import compilation_cache
hits = []
monitoring.register_event_listener(
  lambda name, **_: hits.append(name) if name == '/jax/compilation_cache/cache_hits' else None
)
compilation_cache.enable()
print(float(jax.jit(lambda x: jnp.cumsum(jnp.sin(x) @ x.T)[-1])(jnp.ones((8, 8)))), len(hits))
"""


def start(cache) -> subprocess.Popen:
  env = os.environ | {'XDG_CACHE_HOME': str(cache)}
  env.pop('JAX_COMPILATION_CACHE_DIR', None)
  return subprocess.Popen(
    [sys.executable, '-c', PROGRAM],
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def result(process: subprocess.Popen) -> tuple[str, int, str]:
  """The number that was computed, the hits of the cache, and what was printed as an error."""
  out, err = process.communicate(timeout=120)
  assert process.returncode == 0, err
  value, hits = out.split()
  return value, int(hits), err


def entries(cache) -> dict:
  return {path: path.read_bytes() for path in (cache / 'vaediff' / 'jax').glob('*-cache')}


@pytest.fixture(scope='module')
def filled(tmp_path_factory):
  """A cache that two processes have filled at the same time, and what each of them returned."""
  cache = tmp_path_factory.mktemp('cache')
  processes = [start(cache) for _ in range(2)]
  return cache, [result(process) for process in processes]


def test_processes_that_start_together_share_it(filled):
  cache, ((first, _, first_err), (second, _, second_err)) = filled
  again, hits, err = result(start(cache))
  assert first == second == again
  assert hits == len(entries(cache)) > 0
  assert (first_err, second_err, err) == ('', '', '')


@pytest.mark.parametrize('kept', [0.0, 0.5])
def test_broken_entries_are_written_again(filled, kept):
  cache, ((wanted, _, _), _) = filled
  whole = entries(cache)
  for path, content in whole.items():
    path.write_bytes(content[: int(kept * len(content))])
  value, hits, err = result(start(cache))
  assert (value, hits, err) == (wanted, 0, '')
  assert set(entries(cache)) == set(whole)
  value, hits, err = result(start(cache))
  assert (value, hits, err) == (wanted, len(whole), '')


@pytest.fixture
def shown(monkeypatch, tmp_path):
  """The warnings that are shown, with one entry, of `jit_f`, in the folder."""
  messages = []
  monkeypatch.setattr(warnings, 'showwarning', lambda message, *_: messages.append(message))
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path))
  monkeypatch.setenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
  (tmp_path / 'jit_f-0123-cache').touch()
  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', str(tmp_path))
  compilation_cache.enable()
  yield messages
  jax.config.update('jax_compilation_cache_dir', before)


def warn(message: str) -> None:
  warnings.showwarning(message, UserWarning, 'compiler.py', 1)


def test_other_warnings_are_shown(shown, tmp_path):
  messages = ['something else', BROKEN.format('jit_g')]
  for message in messages:
    warn(message)
  assert shown == messages
  assert len(list(tmp_path.iterdir())) == 1
  warn(BROKEN.format('jit_f'))
  assert shown == messages
  assert not list(tmp_path.iterdir())


def test_what_cannot_be_taken_away_is_warned_of(shown, monkeypatch):
  def refuse(*_, **__):
    raise PermissionError('read-only')

  monkeypatch.setattr(Path, 'unlink', refuse)
  warn(BROKEN.format('jit_f'))
  assert shown == [BROKEN.format('jit_f')]
