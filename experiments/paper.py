"""The lecture as a paper: every figure and every claim, computed here.

  python -m experiments.paper --workdir=W [--quick] [--only=digits,mnist,published]
                              [--figures=f01_autoencoder,...] [--resources=cpus=2] [--workers=N]

Trains what the figures are computed from (W/runs, five seeds of each run of configs/paper.py but
the classifier), on digits and MNIST, and the models whose published numbers stand beside ours, or
of these what --only names; with --quick by less training, and without --only on digits alone, in
half an hour on two CPU cores. With --figures there are those figures alone, and the claims that
rest on them. Then W/paper gets

  NAME_DATASET.npz, .pdf, .png    the numbers of each figure, and the figure (NAME alone where it
                                  is of mathematics); trajectories as .gif too
  claims.json, claims.md          what the lecture claims, what was measured of it, the verdict
  results.json, results.md        published numbers beside ours
  index.html                      all of it on one page

What is there is not made again: the same command goes on where it was stopped, a figure whose
files are gone is the only one that is made again, and one whose own code (its file, figure.py,
trained.py and measures.py) or runs have changed is made anew; the runs are in folders NAME-HASH,
with the beginning of their config's hash. --resources is what each run gets, as of a sweep, and
--workers how many run at a time. The figures are computed in this process, with all devices of the
machine; of a CPU with one for each core.

Exit status: 0 done; 2 the input is wrong, with one line that says how to mend it; 1 anything else.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments import compilation_cache, preemption, program, publishing, trials
from vaediff import parallel
from vaediff.errors import InputError

WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the runs and of the paper.')
QUICK = flags.DEFINE_bool('quick', False, 'Fewer steps; digits alone, where --only is not given.')
ONLY = flags.DEFINE_list('only', [], f'Of {", ".join(publishing.CONTENTS)}; all of them.')
FIGURES = flags.DEFINE_list('figures', [], 'Their names; all of them.')
RESOURCES = flags.DEFINE_list('resources', [], 'What each run gets: NAME=VALUE,...')
WORKERS = flags.DEFINE_integer('workers', None, 'Runs at a time; as many as there is room for.', 1)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns the exit status, or ends by the signal that stopped it."""

  def body() -> int:
    program.parse(argv, 'python -m experiments.paper --workdir=FOLDER', ['workdir'])
    if '://' in WORKDIR.value:
      raise InputError(f'--workdir={WORKDIR.value} is no folder, which a paper is made in')
    resources = trials.parse_resources(RESOURCES.value, {})
    contents = publishing.parse_contents(ONLY.value, QUICK.value)
    figures = publishing.parse_figures(FIGURES.value)
    compilation_cache.enable()
    parallel.divide_cpu(0, publishing.batch_sizes(QUICK.value))
    with preemption.Guard():
      publishing.publish(
        Path(WORKDIR.value), QUICK.value, contents, figures, resources, WORKERS.value
      )
    return 0

  return program.exit_status(argv, __doc__, body)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
