"""Checkpoints of the training state, by orbax: W/checkpoints/STEP/."""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from vaediff import parallel


class Checkpoints:
  """The checkpoints of one run: written asynchronously and atomically, the newest `keep` kept.

  A context manager: leaving it waits for what is still being written.
  """

  def __init__(self, directory: Path, keep: int = 2):
    self._manager = ocp.CheckpointManager(
      Path(directory).absolute(),
      options=ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True),
    )

  def save(self, step: int, replicated_state: Any) -> None:
    """Starts to write the state after `step` steps; a step that is there already is left alone."""
    if step not in self._manager.all_steps():
      state = parallel.unreplicate(replicated_state)
      self._manager.save(step, args=ocp.args.StandardSave(state))

  def latest_step(self) -> int | None:
    """The step of the newest checkpoint, None where there is none."""
    return self._manager.latest_step()

  def restore(self, step: int, template: Any) -> Any:
    """The state after `step` steps, as arrays with the structure, shapes and types of template."""
    return self._manager.restore(step, args=ocp.args.StandardRestore(template))

  def __enter__(self):
    return self

  def __exit__(self, *_) -> None:
    self._manager.close()
