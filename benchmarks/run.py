"""Runs benchmarks and writes what they measure.

  python -m benchmarks.run [--suite=NAME] [--num_turns=N] [--folder=benchmarks/results]

Each suite writes FOLDER/NAME.json (tables, machine, the rate of its matrix product, versions, date,
commit) and the same as Markdown, FOLDER/NAME.md, which is printed too. A suite is a module with
run(num_turns) -> {title: rows of one table}; where it has SHARED_BATCHES, batch sizes, it runs
on one device for each core of a CPU, as `parallel.divide_cpu` has it. All suites run in a process
each.
"""

import datetime
import importlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

from absl import flags

from benchmarks import timing
from experiments import compilation_cache, workdir
from vaediff import parallel, reporting

SUITES = (
  'vae',
  'convolution',
  'unet',
  'mixed_precision',
  'sampling',
  'solvers',
  'muon',
  'likelihoods',
  'importance_sampling',
  'start',
  'overheads',
  'finite_check',
  'memory',
  'growth',
  'seeds',
  'plan',
)

SUITE = flags.DEFINE_enum('suite', None, SUITES, 'The suite; all of them if left out.')
NUM_TURNS = flags.DEFINE_integer('num_turns', 20, 'How often each is timed.', lower_bound=2)
FOLDER = flags.DEFINE_string('folder', 'benchmarks/results', 'Where the results go.')


def main(argv: list[str]) -> int:
  """Runs the program; returns the exit status."""
  try:
    _, *rest = flags.FLAGS(argv)
    if rest:
      raise flags.Error(f'unexpected argument {rest[0]!r}; a suite is --suite=NAME')
  except flags.Error as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  if SUITE.value:
    _run_suite(SUITE.value)
    return 0
  command = [sys.executable, '-m', 'benchmarks.run', *argv[1:]]
  failed = [name for name in SUITES if subprocess.call([*command, f'--suite={name}'])]
  if failed:
    print(f'failed: {", ".join(failed)}', file=sys.stderr)
  return 1 if failed else 0


def _run_suite(name: str) -> None:
  compilation_cache.enable()
  suite = importlib.import_module(f'benchmarks.{name}')
  parallel.divide_cpu(0, getattr(suite, 'SHARED_BATCHES', (1,)))
  folder = Path(FOLDER.value)
  folder.mkdir(parents=True, exist_ok=True)
  tables, about = suite.run(NUM_TURNS.value), provenance()
  reporting.write_json(
    folder / f'{name}.json', {'tables': tables, 'num_turns': NUM_TURNS.value} | about
  )
  parts = [f'{title}:\n\n{table(rows)}' for title, rows in tables.items()]
  rate = about[f'{timing.CEILING}, GFLOP/s']
  machine = f'On {about["machine"]}; its {timing.CEILING} after this: {rate:.4g} GFLOP/s.\n'
  text = '\n'.join([f'{suite.__doc__.strip()}\n', *parts, machine])
  (folder / f'{name}.md').write_text(text)
  print(text)


def provenance() -> dict:
  """The machine in words, its ceiling in GFLOP/s, versions, date and commit."""
  ceiling = timing.ceiling()
  (seconds,) = timing.by_turns({timing.CEILING: ceiling.call}, num_turns=5).values()
  return {
    'machine': f'{_processor()}, {os.cpu_count()} CPU cores',
    f'{timing.CEILING}, GFLOP/s': 1e-9 * ceiling.flops / timing.summarize(seconds).median,
    'device': workdir.devices(),
    'versions': workdir.versions() | _peer_versions(),
    'date': datetime.date.today().isoformat(),
    'commit': workdir.commit(),
  }


def _processor() -> str:
  """The model of the processor where Linux names it, else its architecture."""
  path = Path('/proc/cpuinfo')
  lines = path.read_text().splitlines() if path.exists() else []
  names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
  return f'{platform.machine()}, {names[0]}' if names else platform.machine()


def _peer_versions() -> dict[str, str]:
  """Of those of the packages that we compare with that are installed."""
  installed = {d.name: d.version for d in importlib.metadata.distributions()}
  return {name: installed[name] for name in ('torch', 'diffusers') if name in installed}


def table(rows: list[dict]) -> str:
  """Rows of the same columns as a Markdown table; numbers with four significant digits."""
  return reporting.table(
    list(rows[0]),
    [[f'{v:.4g}' if isinstance(v, float) else str(v) for v in row.values()] for row in rows],
  )


if __name__ == '__main__':
  sys.exit(main(sys.argv))
