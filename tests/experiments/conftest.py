"""The program in processes of its own, as its users start it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT = 300


@pytest.fixture(scope='session')
def run(tmp_path_factory):
  """run(*arguments, num_devices=1, module, cwd, is_forked=True, **environment) -> finished process.

  What `python -m experiments.run ARGUMENTS` does, by a fork of `process_server.py`; with
  is_forked=False by a fresh interpreter, which takes two seconds more.
  """
  folder = tmp_path_factory.mktemp('process')
  # One thread, which is what may be forked: the threads of OpenBLAS would be the only others.
  environment = {**os.environ, 'OPENBLAS_NUM_THREADS': '1'}
  server = subprocess.Popen(
    [sys.executable, Path(__file__).with_name('process_server.py')],
    cwd=ROOT,
    env=environment,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )

  def run(
    *arguments,
    num_devices=1,
    module='experiments.run',
    cwd=ROOT,
    is_forked=True,
    **changes,
  ):
    arguments = [str(argument) for argument in arguments]
    quick = os.environ['QUICK_XLA_FLAGS']
    flags = f'--xla_force_host_platform_device_count={num_devices} {quick}'
    environment = {**os.environ, 'XLA_FLAGS': flags, **changes}
    if not is_forked:
      command = [sys.executable, '-m', module, *arguments]
      return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=TIMEOUT
      )
    assert not any(name.startswith('JAX_') for name in changes), 'JAX has read them already'
    stdout, stderr = folder / 'stdout', folder / 'stderr'
    request = {
      'module': module,
      'arguments': arguments,
      'environment': environment,
      'cwd': str(cwd),
      'stdout': str(stdout),
      'stderr': str(stderr),
      'timeout': TIMEOUT,
    }
    print(json.dumps(request), file=server.stdin, flush=True)
    returncode = int(server.stdout.readline())
    return subprocess.CompletedProcess(
      arguments, returncode, stdout.read_text(), stderr.read_text()
    )

  yield run
  server.stdin.close()
  server.wait()


@pytest.fixture(scope='session')
def succeed(run):
  """As `run`, of what has to succeed."""

  def succeed(*arguments, **options):
    done = run(*arguments, **options)
    assert done.returncode == 0, done.stderr
    return done

  return succeed


@pytest.fixture(scope='session')
def refuse(run):
  """As `run`, of what has to be refused: the one line with which the program does so."""

  def refuse(*arguments, **options):
    done = run(*arguments, **options)
    assert done.returncode == 2, done.stderr
    assert 'Traceback' not in done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith('error: ')
    return line

  return refuse
