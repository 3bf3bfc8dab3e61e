"""Brings a paper into the documentation: its figures, small, and its numbers.

  python -m experiments.gallery --paper=W/paper

W is the workdir of `python -m experiments.paper`. Writes docs/paper/, and into docs/lecture.md at
which commit it was computed and, behind each claim, what was measured of it. What docs/paper has of
other data sets and figures, and the published numbers whose runs this paper lacks, stay: a paper
can be brought in parts.

Exit status: 0 done; 2 the input is wrong, with one line that says how to mend it; 1 anything else.
"""

import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from configs import paper as runs
from experiments import claims, program, published
from vaediff import reporting
from vaediff.errors import InputError

DOCS = Path(__file__).parents[1] / 'docs'
COMPUTED = 'Computed at commit '
# Of a picture, in pixels, and its colours; the shades of an animation.
WIDTH, COLORS, SHADES = 1200, 128, 16
PAPER = flags.DEFINE_string('paper', None, 'The folder of a paper.')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns the exit status."""

  def body() -> int:
    program.parse(argv, 'python -m experiments.gallery --paper=W/paper', ['paper'])
    bring(Path(PAPER.value), DOCS)
    return 0

  return program.exit_status(argv, __doc__, body)


def bring(paper: Path, docs: Path) -> None:
  """Brings pictures and numbers of a paper into docs/paper, and tells docs/lecture.md.

  Raises InputError where the folder has no paper in it, and where the lecture lacks a line.
  """
  names = ('claims.json', 'results.json')
  if not all((paper / name).exists() for name in names):
    raise InputError(
      f'{paper} holds no paper; python -m experiments.paper --workdir=W makes W/paper'
    )
  (docs / 'paper').mkdir(exist_ok=True)
  measured, compared = (json.loads((paper / name).read_text()) for name in names)
  if all((docs / 'paper' / name).exists() for name in names):
    old = [json.loads((docs / 'paper' / name).read_text()) for name in names]
    measured, compared = join_claims(old[0], measured), join_results(old[1], compared)
  told = tell((docs / 'lecture.md').read_text(), measured)
  for name, found in zip(names, (measured, compared), strict=True):
    reporting.write_json(docs / 'paper' / name, found)
  (docs / 'paper' / 'results.md').write_text(published.markdown(compared))
  for path in sorted(paper.glob('*.gif')):
    _write_small_animation(path, docs / 'paper' / path.name)
  for path in sorted(paper.glob('*.png')):
    _write_small(path, docs / 'paper' / path.name)
  (docs / 'lecture.md').write_text(told)


def join_claims(old: Mapping, new: Mapping) -> dict:
  """claims.json of two papers: of each claim, on the data sets that both have, the new evidence.

  What is exact, of no data set, stays where the new one has not measured it. Of a claim whose
  effect is another one now, nothing old stays. The commits are the new ones, and of a data set of
  which evidence stays the old ones too.
  """
  joined, commits = [], dict(new['commits'])
  for claim in claims.CLAIMS:
    before, after = (
      [
        claims.Evidence(**found)
        for entry in one['claims']
        if (entry['claim'], entry['effect']) == (claim.says, claim.effect)
        for found in entry['evidence']
      ]
      for one in (old, new)
    )
    conditions = {own.condition for own in after}
    datasets = {_dataset(own) for own in after} - {''}
    kept = [
      own for own in before if own.condition not in conditions and _dataset(own) not in datasets
    ]
    for dataset in {_dataset(own) for own in kept} & old['commits'].keys():
      commits[dataset] = _both(old['commits'][dataset], new['commits'].get(dataset, {}))
    if kept or after:
      found = sorted(kept + after, key=lambda own: ('', *runs.DATASETS).index(_dataset(own)))
      joined.append(claims.entry(claim, found))
  return {'commits': dict(sorted(commits.items())), 'claims': joined}


def _both(old: Mapping[str, list], new: Mapping[str, list]) -> dict[str, list]:
  return {kind: sorted({*own, *new.get(kind, ())}) for kind, own in old.items()}


def _dataset(found: claims.Evidence) -> str:
  """The data set of a piece of evidence, '' for mathematics."""
  name = found.condition.partition(',')[0]
  return name if name in runs.DATASETS else ''


def join_results(old: Mapping, new: Mapping) -> dict[str, list[dict]]:
  """results.json of two papers: of what is in both, the new one's."""
  keys = {'numbers': ('source', 'what'), 'orders': ('source', 'dataset')}
  joined = {}
  for kind, names in keys.items():
    entries = [*old[kind], *new[kind]]
    joined[kind] = list({tuple(entry[name] for name in names): entry for entry in entries}.values())
  return joined


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


def _write_small_animation(source: Path, target: Path) -> None:
  """Every third frame, the last among them, in shades of grey, shown as long as the three."""
  from PIL import Image, ImageSequence

  with Image.open(source) as animation:
    frames = [
      (frame.convert('L').quantize(SHADES), frame.info['duration'])
      for frame in ImageSequence.Iterator(animation)
    ][::-3][::-1]
  pictures, durations = zip(*frames, strict=True)
  with reporting.replacing(target) as temporary:
    pictures[0].save(
      temporary,
      format='GIF',
      save_all=True,
      append_images=pictures[1:],
      duration=[*(3 * duration for duration in durations[:-1]), durations[-1]],
      loop=0,
    )


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
