"""Runs experiments.run, or another module, where gs:// and s3:// are folders below $OBJECTS.

  OBJECTS=FOLDER python -m tests.experiments.object_store MODULE ARGUMENTS

The clients of object storage are replaced: what goes by fsspec (all small files, and what orbax
keeps beside its arrays) and the arrays that orbax writes to gs:// by tensorstore. As on object
storage, nothing is appended to, and there are no locks.
"""

import os
import runpy
import sys
import types

import fsspec
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from orbax.checkpoint._src.path import gcs_utils


class Objects(DirFileSystem):
  """Objects below $OBJECTS/BUCKET."""

  def __init__(self, **_):
    super().__init__(path=os.environ['OBJECTS'], fs=LocalFileSystem(auto_mkdir=True))

  def _join(self, path):
    return super()._join(path.partition('://')[2] or path if isinstance(path, str) else path)

  def open(self, path, mode='rb', *args, **kwargs):
    if 'a' in mode or '+' in mode:
      raise ValueError(f'objects cannot be opened with mode {mode}')
    return super().open(os.fspath(path), mode, *args, **kwargs)


def arrays(path: str) -> dict[str, str]:
  """Where tensorstore finds what is at gs://..."""
  return {'driver': 'file', 'path': f'{os.environ["OBJECTS"]}/{str(path).partition("://")[2]}/'}


if __name__ == '__main__':
  for protocol in ('gcs', 's3'):
    fsspec.register_implementation(protocol, Objects, clobber=True)
  gcs_utils.get_kvstore_for_gcs = arrays
  gcs_utils.is_hierarchical_namespace_enabled = lambda path: False
  sys.modules['google.cloud.storage'] = types.ModuleType('storage')
  sys.argv = sys.argv[1:]
  runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
