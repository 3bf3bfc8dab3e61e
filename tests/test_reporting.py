"""metrics.jsonl across restarts, pictures, files that are whole or not there."""

import json

import numpy as np
import pytest
from PIL import Image

from vaediff import reporting
from vaediff.errors import RunError


def lines(folder):
  return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


def write(folder, first_step, steps):
  with reporting.Reporter(folder, first_step, 100, batch_size=8) as reporter:
    for step in steps:
      reporter.metrics(step, 'train', {'loss': step / 2})
      reporter.progress(step, step / 2)


def test_a_restart_drops_what_it_does_again(tmp_path):
  write(tmp_path, 0, [10, 20, 30])
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 40, "spl')  # torn by a crash
  write(tmp_path, 20, [30, 40])
  expected = [{'step': s, 'split': 'train', 'loss': s / 2} for s in (10, 20, 30, 40)]
  assert lines(tmp_path) == expected


def test_a_torn_line_in_the_middle_of_nowhere_is_dropped(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 5, "split": "train"}\n{"st')
  write(tmp_path, 5, [])
  assert lines(tmp_path) == [{'step': 5, 'split': 'train'}]


@pytest.mark.parametrize('line', ['{"st', '{"step": 10}', '[]', '7'])
def test_a_damaged_line_that_no_crash_leaves_is_named(line, tmp_path):
  path = tmp_path / 'metrics.jsonl'
  text = f'{{"step": 5, "split": "train"}}\n{line}\n{{"step": 15, "split": "train"}}\n'
  path.write_text(text)
  with pytest.raises(RunError, match='is damaged in line 2'):
    write(tmp_path, 20, [])
  assert path.read_text() == text


def test_tensorboard_gets_curves_and_pictures(tmp_path):
  with reporting.Reporter(tmp_path, 0, 10, batch_size=8) as reporter:
    reporter.metrics(10, 'test', {'elbo': 1.0})
    reporter.picture(10, 'samples', np.zeros((4, 4, 3), np.uint8))
  (events,) = (tmp_path / 'tensorboard').iterdir()
  content = events.read_bytes()
  assert b'test/elbo' in content
  assert b'samples' in content


class Clock:
  """Stands for `time.monotonic`; seconds pass when a test says so."""

  def __init__(self, monkeypatch):
    self.now = 100.0
    monkeypatch.setattr(reporting.time, 'monotonic', lambda: self.now)

  def run(self, reporter, seconds, step):
    self.now += seconds
    reporter.progress(step, 1.0)


def test_the_cost_is_that_of_training_alone(tmp_path, monkeypatch):
  """What comes before the first report (compiling), and what follows `stop_clock`, is not timed."""
  clock = Clock(monkeypatch)
  assert reporting.read_cost(tmp_path) == {}
  with reporting.Reporter(tmp_path, 0, 100, batch_size=8) as reporter:
    clock.run(reporter, 60, step=10)
    reporter.write_cost(100)
    assert reporting.read_cost(tmp_path) == {}  # nothing is timed yet
    clock.run(reporter, 2, step=20)
    clock.run(reporter, 4, step=30)
    reporter.stop_clock()
    clock.run(reporter, 1000, step=40)  # an evaluation, and steps that went on beside it
    clock.run(reporter, 3, step=50)
    reporter.write_cost(100)
  # 30 steps in 9 seconds.
  assert reporting.read_cost(tmp_path) == {'training_seconds': pytest.approx(100 * 9 / 30)}


def test_a_restart_keeps_the_cost_until_it_has_its_own(tmp_path, monkeypatch):
  clock = Clock(monkeypatch)
  reporting.write_json(tmp_path / 'cost.json', {'training_seconds': 7.0})
  with reporting.Reporter(tmp_path, 90, 100, batch_size=8) as reporter:
    clock.run(reporter, 5, step=100)
    reporter.write_cost(100)
  assert reporting.read_cost(tmp_path) == {'training_seconds': 7.0}


def test_the_bar_and_tensorboard_show_the_speed(tmp_path, monkeypatch, capsys):
  clock = Clock(monkeypatch)
  with reporting.Reporter(tmp_path, 0, 100, batch_size=8) as reporter:
    for step in (10, 20):
      clock.run(reporter, 2, step)
  # 10 steps of 8 examples in 2 seconds.
  bar = capsys.readouterr().err
  assert 'loss 1, 40 examples/s' in bar
  assert '20/100' in bar
  (events,) = (tmp_path / 'tensorboard').iterdir()
  assert b'speed/examples_per_second' in events.read_bytes()


def test_frames_of_an_animation_can_be_read_back(tmp_path):
  path = tmp_path / 'a.gif'
  # In grey, of which a GIF has all 256.
  frames = [np.full((6, 5, 3), 40 * i, np.uint8) for i in range(4)]
  frames[2][:, :2] = 255
  reporting.write_animation(path, frames, milliseconds=120)
  with Image.open(path) as animation:
    assert (animation.n_frames, animation.size) == (4, (5, 6))
    assert animation.info['loop'] == 0  # for ever
    durations = []
    for i, frame in enumerate(frames):
      animation.seek(i)
      durations.append(animation.info['duration'])
      np.testing.assert_array_equal(np.asarray(animation.convert('RGB')), frame)
  assert durations == [120, 120, 120, 1000]
  assert [p.name for p in tmp_path.iterdir()] == ['a.gif']


def test_grid_places_pictures_row_by_row():
  x = np.zeros((3, 32, 40, 1), np.uint8)
  x[1], x[2] = 1, 2
  pixels = reporting.grid(x, num_levels=3, num_columns=2)
  assert pixels.shape == (2 * 34, 2 * 42, 3)
  assert [int(pixels[17, 21, 0]), int(pixels[17, 63, 0])] == [0, 128]
  assert [int(pixels[51, 21, 0]), int(pixels[51, 63, 0])] == [255, 0]


@pytest.mark.parametrize('channels', [1, 2, 3])
def test_grid_shows_any_number_of_channels_and_enlarges_small_pictures(channels):
  x = np.full((1, 8, 8, channels), 16, np.uint8)
  pixels = reporting.grid(x, num_levels=17)
  assert pixels.shape == (34, 34, 3)
  assert np.all(pixels[1:-1, 1:-1] == 255)


def test_write_picture_and_json(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3)).astype(np.uint8)
  reporting.write_picture(tmp_path / 'a.png', pixels)
  np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / 'a.png')), pixels)
  reporting.write_json(tmp_path / 'a.json', {'b': 1})
  assert json.loads((tmp_path / 'a.json').read_text()) == {'b': 1}
  assert sorted(p.name for p in tmp_path.iterdir()) == ['a.json', 'a.png']


def test_a_failed_write_leaves_the_old_file(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text('old')

  def fail():
    with reporting.replacing(path) as temporary:
      temporary.write_text('ne')
      raise RuntimeError

  with pytest.raises(RuntimeError):
    fail()
  assert [p.name for p in tmp_path.iterdir()] == ['a.txt']
  assert path.read_text() == 'old'
