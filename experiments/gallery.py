"""Brings a paper into the documentation: its figures, small, and its numbers.

  python -m experiments.gallery --paper=W/paper

W is the workdir of `python -m experiments.paper`. Writes docs/paper/, and into docs/lecture.md at
which commit it was computed and, behind each claim, what was measured of it.

Exit status: 0 done; 2 the input is wrong, with one line that says how to mend it; 1 anything else.
"""

import io
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from experiments import claims, program
from vaediff import reporting
from vaediff.errors import InputError

DOCS = Path(__file__).parents[1] / 'docs'
COMPUTED = 'Computed at commit '
# Of a picture, in pixels, and its colours.
WIDTH, COLORS = 1200, 128
PAPER = flags.DEFINE_string('paper', None, 'The folder of a paper.')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns the exit status."""

  def body() -> int:
    program.parse(argv, 'python -m experiments.gallery --paper=W/paper', ['paper'])
    bring(Path(PAPER.value), DOCS)
    return 0

  return program.exit_status(argv, __doc__, body)


def bring(paper: Path, docs: Path) -> None:
  """Copies pictures and numbers of a paper into docs/paper, and tells docs/lecture.md.

  Raises InputError where the folder has no paper in it, and where the lecture lacks a line.
  """
  files = [paper / name for name in ('claims.json', 'results.json', 'results.md')]
  if not all(path.exists() for path in files):
    raise InputError(
      f'{paper} holds no paper; python -m experiments.paper --workdir=W makes W/paper'
    )
  told = tell((docs / 'lecture.md').read_text(), json.loads(files[0].read_text()))
  (docs / 'paper').mkdir(exist_ok=True)
  for path in [*files, *sorted(paper.glob('*.gif'))]:
    shutil.copy(path, docs / 'paper' / path.name)
  for path in sorted(paper.glob('*.png')):
    _write_small(path, docs / 'paper' / path.name)
  (docs / 'lecture.md').write_text(told)


def tell(text: str, measured: Mapping) -> str:
  """The lecture with the commits of claims.json, and each of its claims as `line` has it.

  Raises InputError where it lacks the line of one of them.
  """
  told = {COMPUTED: f'{COMPUTED}{claims.computed_at(measured["commits"])}.'}
  told |= {_beginning(entry): line(entry) for entry in measured['claims']}
  lines = text.splitlines()
  for beginning, new in told.items():
    places = [i for i, own in enumerate(lines) if own.startswith(beginning)]
    if len(places) != 1:
      raise InputError(
        f'docs/lecture.md has {len(places)} lines that begin with "{beginning}"; it is to have one'
      )
    lines[places[0]] = new
  return '\n'.join(lines) + '\n'


def line(entry: Mapping) -> str:
  """A claim with what was measured of it, of claims.json."""
  effects = '; '.join(map(claims.in_words, entry['evidence']))
  return f'{_beginning(entry)} {entry["effect"]}: {effects}. **{entry["verdict"]}**'


def _beginning(entry: Mapping) -> str:
  return f'- *{entry["claim"]}*'


def _write_small(source: Path, target: Path) -> None:
  """A picture of WIDTH pixels at most, in few colours."""
  from PIL import Image

  with Image.open(source) as picture:
    small = picture.convert('RGB')
  small.thumbnail((WIDTH, 10 * WIDTH))
  buffer = io.BytesIO()
  small.quantize(COLORS).save(buffer, format='png', optimize=True)
  with reporting.replacing(target) as temporary:
    temporary.write_bytes(buffer.getvalue())


if __name__ == '__main__':
  sys.exit(main(sys.argv))
