"""What a run says while it runs: progress bar, metrics.jsonl, TensorBoard, pictures."""

import contextlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter
from tqdm import tqdm

from vaediff.errors import RunError


class Reporter:
  """Writes the curves of one run, going on after `first_step` where an earlier start stopped.

  metrics.jsonl holds what the numbers are and nothing about time, so that a resumed run and an
  uninterrupted one write the same file; speed goes to the progress bar and to TensorBoard.

  Raises RunError where the metrics.jsonl of an earlier start is damaged.
  """

  def __init__(
    self, workdir: Path, first_step: int, num_steps: int, batch_size: int, show_bar: bool = True
  ):
    self._batch_size = batch_size
    self._file, self._written = _open_after(workdir / 'metrics.jsonl', first_step)
    self._tensorboard = SummaryWriter(str(workdir / 'tensorboard'), purge_step=first_step + 1)
    self._bar = tqdm(
      initial=first_step, total=num_steps, unit='step', dynamic_ncols=True, disable=not show_bar
    )
    self._cost_path = workdir / 'cost.json'
    self._last = None
    self._timed_steps, self._timed_seconds = 0, 0.0

  def progress(self, step: int, loss: float) -> None:
    """Moves the bar to `step`, with the loss and the examples per second.

    The speed is the mean since the start, less what comes before the first call after the start or
    after `stop_clock`: neither compiling nor evaluation count.
    """
    now = time.monotonic()
    if self._last is not None:
      last_step, last_time = self._last
      self._timed_steps += step - last_step
      self._timed_seconds += now - last_time
    self._last = step, now
    text = f'loss {loss:.4g}'
    if self._timed_steps:
      rate = self._timed_steps * self._batch_size / self._timed_seconds
      text += f', {rate:,.0f} examples/s'
      self._tensorboard.add_scalar('speed/examples_per_second', rate, step)
    self._bar.set_postfix_str(text, refresh=False)
    self._bar.update(step - self._bar.n)

  def sync(self) -> None:
    """Has the disk hold all lines so far, so that no checkpoint is ahead of them."""
    os.fsync(self._file.fileno())

  def stop_clock(self) -> None:
    """What follows, up to the next call of `progress`, is not training."""
    self._last = None

  def write_cost(self, num_steps: int) -> None:
    """Writes cost.json: the seconds that num_steps take at the speed of this start."""
    if self._timed_steps:
      seconds = num_steps * self._timed_seconds / self._timed_steps
      write_json(self._cost_path, {'training_seconds': seconds})

  def has(self, step: int, split: str, seed: int | None = None) -> bool:
    """Whether the line of this step and split is there already; of this seed, if there are more."""
    return (step, split, seed) in self._written

  def metrics(
    self, step: int, split: str, values: dict[str, float], seed: int | None = None
  ) -> None:
    """One line of metrics.jsonl, unless it is there already; the values to TensorBoard.

    seed: where the run has several, each of which has lines and curves of its own.
    """
    if self.has(step, split, seed):
      return
    self._written.add((step, split, seed))
    place = {'step': step, 'split': split} | ({} if seed is None else {'seed': seed})
    self._file.write(json.dumps(place | values) + '\n')
    self._file.flush()
    for name, value in values.items():
      tag = f'{split}/{name}' if seed is None else f'{split}/{name}/seed_{seed}'
      self._tensorboard.add_scalar(tag, value, step)

  def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
    """A picture [H, W, 3] uint8 to TensorBoard."""
    self._tensorboard.add_image(name, pixels, step, dataformats='HWC')

  def __enter__(self):
    return self

  def __exit__(self, *_) -> None:
    self._bar.close()
    self._tensorboard.close()
    self._file.close()


def read_cost(workdir: Path) -> dict[str, float]:
  """What `Reporter.write_cost` has written; {} where it has not."""
  path = workdir / 'cost.json'
  return json.loads(path.read_text()) if path.exists() else {}


def grid(x: np.ndarray, num_levels: int, num_columns: int | None = None) -> np.ndarray:
  """Pictures on levels 0 .. num_levels - 1, [N, H, W, C], as one RGB picture, uint8 [H', W', 3].

  C = 3 is colour; of any other number of channels the mean is shown in grey. Small pictures are
  enlarged by a whole factor to at least 32 pixels.
  """
  num, height, width, channels = x.shape
  num_columns = num_columns or int(np.ceil(np.sqrt(num)))
  num_rows = -(-num // num_columns)
  pixels = np.round(x.astype(np.float64) * (255 / (num_levels - 1)))
  if channels != 3:
    pixels = np.repeat(pixels.mean(-1, keepdims=True), 3, axis=-1)
  scale = -(-32 // min(height, width))
  pixels = pixels.astype(np.uint8).repeat(scale, 1).repeat(scale, 2)
  pixels = np.pad(pixels, ((0, num_rows * num_columns - num), (1, 1), (1, 1), (0, 0)))
  rows = pixels.reshape(num_rows, num_columns, *pixels.shape[1:]).swapaxes(1, 2)
  return rows.reshape(num_rows * pixels.shape[1], num_columns * pixels.shape[2], 3)


def write_picture(path: Path, pixels: np.ndarray) -> None:
  """Writes pixels [H, W, 3] uint8 as a PNG, whole or not at all."""
  with replacing(path) as temporary:
    Image.fromarray(pixels).save(temporary, format='PNG')


def write_animation(path: Path, frames: Sequence[np.ndarray], milliseconds: int) -> None:
  """Writes frames [H, W, 3] uint8 as a GIF that repeats; the last one stays for a second."""
  pictures = [Image.fromarray(frame) for frame in frames]
  durations = [milliseconds] * (len(frames) - 1) + [1000]
  with replacing(path) as temporary:
    pictures[0].save(
      temporary,
      format='GIF',
      save_all=True,
      append_images=pictures[1:],
      duration=durations,
      loop=0,
    )


def table_row(cells: Sequence[str]) -> str:
  """One line of a Markdown table."""
  return '| ' + ' | '.join(cell.replace('|', r'\|') for cell in cells) + ' |\n'


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """A Markdown table."""
  return ''.join(map(table_row, [header, ['---'] * len(header), *rows]))


def write_json(path: Path, value) -> None:
  """Writes value as JSON, whole or not at all."""
  with replacing(path) as temporary:
    temporary.write_text(json.dumps(value, indent=2) + '\n')


@contextlib.contextmanager
def replacing(path: Path):
  """Yields a temporary path beside `path`, renamed to it if the block succeeds, else removed.

  On object storage the path itself: what is written there once is whole, or not there.
  """
  if not isinstance(path, Path):
    yield path
    return
  temporary = path.with_name(f'.{path.name}.tmp')
  try:
    yield temporary
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def _open_after(path: Path, step: int):
  """Opens metrics.jsonl to append; keeps its whole lines up to `step`, and says which they are."""
  kept, written = [], set()
  lines = path.read_text().splitlines(keepends=True) if path.exists() else []
  for number, line in enumerate(lines, start=1):
    if not line.endswith('\n'):
      break  # torn, and to be written again
    try:
      values = json.loads(line)
      place = values['step'], values['split'], values.get('seed')
    except (ValueError, LookupError, TypeError) as error:
      raise RunError(
        f'{path} is damaged in line {number} ({error}); bring back a copy, or cut the file off '
        f'before that line and delete the checkpoints past its last step'
      ) from error
    if place[0] <= step:
      kept.append(line)
      written.add(place)
  with replacing(path) as temporary:
    temporary.write_text(''.join(kept))
  return path.open('a'), written
