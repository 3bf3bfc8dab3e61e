"""Where runs are kept: in a folder, or on object storage, as gs://BUCKET/RUN or s3://BUCKET/RUN.

A run on object storage writes to a local folder, which is copied before each checkpoint and at the
end, each file whole or not at all: objects can be replaced, but not appended to. On gs:// orbax
writes the checkpoints itself, from all hosts; on s3://, where it cannot, they are copied too, each
when the next one is due, and a run there has one process. Object storage has no locks: two runs in
the same place are not noticed.
"""

import contextlib
import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from etils import epath

from vaediff import parallel
from vaediff.errors import InputError

SCHEMES = ('gs', 's3')
Folder = Path | epath.Path


def path(text: str) -> Folder:
  """The folder of this name. Raises InputError where it is on storage that cannot be used."""
  scheme, separator, _ = text.partition('://')
  if not separator:
    return Path(text)
  if scheme not in SCHEMES:
    allowed = ' or '.join(f'{name}://' for name in SCHEMES)
    raise InputError(f'{text} is on storage of another kind than a folder or {allowed}')
  try:
    epath.Path(text).exists()
    if scheme == 'gs':
      importlib.import_module('google.cloud.storage')  # which orbax needs
  except ImportError as error:
    raise InputError(f'{text} needs a package that is not installed: {error}') from error
  return epath.Path(text)


def is_remote(folder: Folder) -> bool:
  """Whether a folder is on object storage."""
  return not isinstance(folder, Path)


def checkpoints(folder: Folder, own: Path) -> Folder:
  """Where the checkpoints of a run are written; own is its `local_copy`."""
  return (own if str(folder).startswith('s3://') else folder) / 'checkpoints'


@contextlib.contextmanager
def local_copy(folder: Folder, names: tuple[str, ...]) -> Iterator[tuple[Path, Callable]]:
  """A local folder in the place of a remote one, with those of these files that it has.

  Yields the folder, and a function that makes the remote one like it, the named files last and in
  their order; it is also called at the end, however the block ends. Of a folder of this machine,
  the folder itself and a function that does nothing. Raises InputError where several processes
  cannot share the storage.
  """
  if not is_remote(folder):
    yield folder, lambda: None
    return
  with tempfile.TemporaryDirectory() as temporary:
    own = Path(temporary)
    is_copied = checkpoints(folder, own).parent == own
    if is_copied and not parallel.is_alone():
      raise InputError(f'{folder} is for runs of one process; several can share gs:// or a folder')
    text = f'{folder} cannot be locked: see that no other process runs there'
    print(text, file=sys.stderr, flush=True)
    for name in names:
      if (folder / name).exists():
        (own / name).write_bytes((folder / name).read_bytes())
    if is_copied and (folder / 'checkpoints').exists():
      _download(folder / 'checkpoints', own / 'checkpoints')
    known = _files(own)

    def place(name: str) -> tuple[int, str]:
      return names.index(name) if name in names else -1, name

    def publish() -> None:
      nonlocal known
      found = _files(own)
      for name in sorted(found.keys(), key=place):
        if found[name] != known.get(name):
          (folder / name).parent.mkdir(parents=True, exist_ok=True)
          (folder / name).write_bytes((own / name).read_bytes())
      for name in known.keys() - found.keys():
        (folder / name).unlink(missing_ok=True)
      known = found

    try:
      yield own, publish
    finally:
      publish()


def _download(source: epath.Path, target: Path) -> None:
  target.mkdir()
  for found in source.iterdir():
    if found.is_dir():
      _download(found, target / found.name)
    else:
      (target / found.name).write_bytes(found.read_bytes())


def _files(folder: Path) -> dict[str, tuple[int, int]]:
  """The files below a folder by their names there, and what changes when they are written."""
  stats = {file.relative_to(folder): file.stat() for file in folder.rglob('*') if file.is_file()}
  return {name.as_posix(): (stat.st_mtime_ns, stat.st_size) for name, stat in stats.items()}
