"""Checkpoints of the training state, by orbax: W/checkpoints/STEP/.

Beside the arrays each checkpoint holds their contents as JSON: the path, shape, type and SHA-256 of
every array, and the SHA-256 of all that. What is restored is compared with it, so that no damaged
file becomes a wrong number, and none is taken for a checkpoint of another model.
"""

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from vaediff import parallel
from vaediff.errors import InputError, RunError

# Room that is left for the other files of a run.
_SPARE_BYTES = 2**20
_STATE, _CONTENTS = 'state', 'contents'


class Checkpoints:
  """The checkpoints of one run: written asynchronously and atomically, the newest `keep` kept.

  A context manager: leaving it waits for what is still being written. With several processes, all
  of them call the same functions in the same order, and the folder is one that all can see.

  With read_only nothing in the folder is changed.
  """

  def __init__(self, directory: Path | epath.Path, keep: int = 2, *, read_only: bool = False):
    # On object storage, as gs://BUCKET/RUN/checkpoints, or in a folder.
    self._is_remote = not isinstance(directory, Path)
    self._directory = epath.Path(directory if self._is_remote else directory.absolute())
    self._keep, self._read_only = keep, read_only
    self._manager = self._open(keep)

  def save(self, step: int, replicated_state: Any) -> None:
    """Starts to write the state after `step` steps; a step that is there already is left alone.

    Raises RunError where the state is not finite, and where this write or the one before fails (a
    full disk); the checkpoints that were there before stay.
    """
    self.wait()
    if step in self._manager.all_steps():
      return
    state = parallel.unreplicate(replicated_state)
    for path, leaf in jax.tree.leaves_with_path(state):
      if jnp.issubdtype(leaf.dtype, jnp.inexact) and not np.all(np.isfinite(leaf)):
        raise RunError(
          f'{_name(path)} is not finite after step {step}; no checkpoint of it is written, and the '
          f'newest is of step {self._manager.latest_step()}'
        )
    self._check_room(step, sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
    items = ocp.args.Composite(
      **{_STATE: ocp.args.StandardSave(state), _CONTENTS: ocp.args.JsonSave(_sealed(state))}
    )
    self._writing(lambda: self._manager.save(step, args=items, force=True))

  def wait(self) -> None:
    """Waits for what is still being written. Raises RunError where that fails."""
    self._writing(self._manager.wait_until_finished)

  def steps(self) -> list[int]:
    """The steps that have a checkpoint, sound or not, the newest first."""
    return sorted(self._manager.all_steps(), reverse=True)

  def restore_newest(self, template: Any) -> tuple[int, Any] | None:
    """The newest sound checkpoint: its step and its state; None where there is no checkpoint.

    template: a tree with the structure of the state, of arrays or of shapes and types alone. What
    is restored are arrays of NumPy. A damaged checkpoint is named in a warning, and moved to
    damaged/ beside the folder, where it is not in the way of the step that is to be done again.

    Raises InputError where a checkpoint is of another state than the template, RunError where
    checkpoints are there and none is sound.
    """
    steps = self.steps()
    for step in steps:
      try:
        state = self._restore(step, template)
      except _DamageError as damage:
        logging.getLogger(__name__).warning(
          'checkpoint %s is damaged and not used: %s', self._directory / str(step), damage
        )
        continue
      if step != steps[0] and not self._read_only:
        self._set_aside([damaged for damaged in steps if damaged > step])
      if not self._read_only:
        # An earlier process may have been killed before it had deleted these, or amid it.
        for old in [before for before in steps if before < step][self._keep - 1 :]:
          self._manager.delete(old)
      return step, state
    if steps:
      raise RunError(
        f'{self._directory} holds no sound checkpoint (steps {", ".join(map(str, steps))} are '
        'damaged); bring back a copy, or delete the run to start anew'
      )
    return None

  def __enter__(self):
    return self

  def __exit__(self, kind, *_) -> None:
    try:
      self._writing(self._manager.close)
    except RunError:
      if kind is None:
        raise

  def _open(self, keep: int) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
      max_to_keep=keep,
      enable_async_checkpointing=True,
      create=not self._read_only,
      cleanup_tmp_directories=not self._read_only,
    )
    return ocp.CheckpointManager(self._directory, options=options)

  def _check_room(self, step: int, num_bytes: int) -> None:
    """Raises RunError where a state of this size does not fit beside what else is written."""
    if self._is_remote:
      return
    free = shutil.disk_usage(self._directory).free
    if free < 1.5 * num_bytes + _SPARE_BYTES:
      raise RunError(
        f'the checkpoint of step {step} has {num_bytes:,} bytes, and {self._directory} has room '
        f'for {free:,}; the one of step {self._manager.latest_step()} is whole: make room, and '
        'start again'
      )

  def _writing(self, write) -> None:
    try:
      write()
    except Exception as error:  # the file system's and tensorstore's share no base class
      raise RunError(
        f'a checkpoint could not be written to {self._directory} ({_one_line(error)}); those '
        'before it are whole: make room, and start again'
      ) from error

  def _restore(self, step: int, template: Any) -> Any:
    """The state of a step. Raises _DamageError where it is not what was saved."""
    try:
      recorded = _unsealed(self._read(step, _CONTENTS, ocp.args.JsonRestore()))
      found = {name: (tuple(shape), dtype) for name, (shape, dtype, _) in recorded.items()}
    except Exception as error:  # orbax, JSON and the file system share no base class
      raise _DamageError(_one_line(error)) from error
    self._check_kind(step, found, template)
    empty = jax.tree.map(lambda leaf: np.empty(np.shape(leaf), leaf.dtype), template)
    try:
      state = self._read(step, _STATE, ocp.args.StandardRestore(empty))
    except Exception as error:
      raise _DamageError(_one_line(error)) from error
    for name, content in contents(state).items():
      if content != recorded[name]:
        raise _DamageError(f'{name} is not what was saved')
    return state

  def _read(self, step: int, item: str, arguments: Any) -> Any:
    return self._manager.restore(step, args=ocp.args.Composite(**{item: arguments}))[item]

  def _check_kind(self, step: int, found: dict[str, tuple], template: Any) -> None:
    """Raises InputError where the arrays of a checkpoint have other names, shapes or types."""
    wanted = {
      _name(path): (np.shape(leaf), jnp.result_type(leaf).name)
      for path, leaf in jax.tree.leaves_with_path(template)
    }
    for name in sorted(found.keys() | wanted.keys()):
      there, here = (_in_words(kinds.get(name)) for kinds in (found, wanted))
      if there != here:
        raise InputError(
          f'{self._directory / str(step)} is a checkpoint of another model: {name} is {there} '
          f'there and {here} by this config; use the config that it was trained with, or another '
          'workdir'
        )

  def _set_aside(self, steps: list[int]) -> None:
    """Moves the checkpoints of these steps to damaged/ beside the folder."""

    def move():
      folder = self._directory.parent / 'damaged'
      folder.mkdir(exist_ok=True)
      for step in steps:
        (folder / str(step)).rmtree(missing_ok=True)
        (self._directory / str(step)).rename(folder / str(step))

    parallel.on_primary(move)
    self._manager.reload()


class _DamageError(Exception):
  """A checkpoint is not what was saved."""


def contents(state: Any) -> dict[str, list]:
  """{path: [shape, type, SHA-256 of the bytes]} of the arrays of a tree, as JSON gives it back."""
  return {
    _name(path): [
      list(leaf.shape),
      leaf.dtype.name,
      hashlib.sha256(np.ascontiguousarray(leaf).view(np.uint8)).hexdigest(),
    ]
    for path, leaf in jax.tree.leaves_with_path(state)
  }


def _sealed(state: Any) -> dict[str, Any]:
  """The contents of a state, with a digest of their own."""
  arrays = contents(state)
  return {'arrays': arrays, 'sha256': _digest(arrays)}


def _unsealed(recorded: dict[str, Any]) -> dict[str, list]:
  """The contents in what `_sealed` gave. Raises ValueError where they are not what they were."""
  if _digest(recorded['arrays']) != recorded['sha256']:
    raise ValueError('the record of its contents is not what was saved')
  return recorded['arrays']


def _digest(arrays: dict[str, list]) -> str:
  return hashlib.sha256(json.dumps(arrays, sort_keys=True).encode()).hexdigest()


def _name(path) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='.')


def _in_words(kind: tuple | None) -> str:
  return 'absent' if kind is None else f'{kind[1]} {list(kind[0])}'


def _one_line(error: Exception) -> str:
  text = ' '.join(str(error).split())
  return f'{type(error).__name__}: {text[:200]}'
