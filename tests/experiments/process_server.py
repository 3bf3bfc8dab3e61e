"""Runs modules as `python -m MODULE ARGUMENTS` does, without paying for the imports each time.

This process imports what the program imports and then forks for each request; JAX has no backend
yet, and there is no second thread, so that a fork is a process like any other. Requests come on
standard input, one JSON object a line; the answer is a line with the exit status, as
`subprocess.CompletedProcess.returncode` has it. What JAX reads from the environment when it is
imported (JAX_...) is the server's own.
"""

import gc
import json
import os
import runpy
import signal
import sys
from pathlib import Path


def preload() -> None:
  """Imports what the program will, but for the module itself, which is to run as `__main__`."""
  import array_record.python.array_record_data_source  # noqa: F401
  from ml_collections import config_flags  # noqa: F401
  from tensorflow_datasets.proto import tf_example_pb2  # noqa: F401

  from experiments import stages  # noqa: F401
  from vaediff.datasets import digits  # noqa: F401


def serve() -> dict | None:
  """Forks for each request. Returns the request in the fork, None in the server at the end."""
  for line in sys.stdin:
    # Where /proc is: threads of C++ count as well. A fork would lack them.
    assert len(list(Path('/proc/self/task').glob('*'))) <= 1
    process = os.fork()
    if process == 0:
      return json.loads(line)
    _, status = os.waitpid(process, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
  return None


def become(request: dict) -> None:
  """Makes this process what the request asks for, and runs the module."""
  signal.alarm(request['timeout'])
  write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
  for target, path, flags in (
    (0, os.devnull, os.O_RDONLY),
    (1, request['stdout'], write),
    (2, request['stderr'], write),
  ):
    file = os.open(path, flags)
    os.dup2(file, target)
    os.close(file)
  os.environ.clear()
  os.environ.update(request['environment'])
  os.chdir(request['cwd'])
  sys.path[0] = request['cwd']
  sys.argv[1:] = request['arguments']
  runpy.run_module(request['module'], run_name='__main__', alter_sys=True)


if __name__ == '__main__':
  sys.path[0] = os.getcwd()
  preload()
  gc.freeze()  # the end of a fork need not look through all modules again
  request = serve()
  if request is not None:
    become(request)
