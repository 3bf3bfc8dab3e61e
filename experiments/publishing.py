"""What is missing of a paper is made: runs, numbers, figures, claims, comparisons, the page."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from tqdm import tqdm

from configs import paper as runs
from experiments import claims, local_engine, measures, page, published, schema, trained, workdir
from experiments.figures import FIGURES
from experiments.figures import figure as figure_file
from experiments.figures.figure import Study
from experiments.trials import Trial
from vaediff import data, reporting
from vaediff.errors import InputError, RunError

# Of a paper: the figures of each data set, and the models with published numbers beside ours.
PUBLISHED = 'published'
CONTENTS = (*runs.DATASETS, PUBLISHED)


class Part(NamedTuple):
  """A figure for one data set; '' where it is of mathematics alone."""

  name: str
  dataset: str
  module: ModuleType
  provenance: dict

  @property
  def stem(self) -> str:
    return f'{self.name}_{self.dataset}' if self.dataset else self.name

  def suffixes(self) -> tuple[str, ...]:
    """Of the files that are drawn."""
    return ('.pdf', '.png', *(('.gif',) if hasattr(self.module, 'animate') else ()))


def parse_contents(names: Sequence[str], quick: bool) -> tuple[str, ...]:
  """Those of CONTENTS that are named; where none is, all, or of a quick paper digits alone.

  Raises InputError for another name.
  """
  for name in names:
    if name not in CONTENTS:
      raise InputError(f'--only has {name!r}, which is none of {", ".join(CONTENTS)}')
  return tuple(name for name in CONTENTS if name in names) or (('digits',) if quick else CONTENTS)


def parse_figures(names: Sequence[str]) -> tuple[str, ...]:
  """Those of FIGURES that are named; where none is, all. Raises InputError for another name."""
  for name in names:
    if name not in FIGURES:
      raise InputError(f'--figures has {name!r}, which is none of {", ".join(FIGURES)}')
  return tuple(name for name in FIGURES if name in names) or tuple(FIGURES)


def batch_sizes(quick: bool) -> list[int]:
  """Of all runs: what the devices share on which figures are computed."""
  configs = (config for dataset in runs.DATASETS for config in _configs(dataset, quick).values())
  return [size for config in configs for size, _ in schema.batch_sizes(config).values()]


def publish(
  folder: Path,
  quick: bool,
  contents: Sequence[str],
  figures: Sequence[str],
  resources: Mapping,
  num_workers: int | None,
) -> None:
  """Makes all that is missing of the paper of a folder.

  contents: of CONTENTS. figures: of FIGURES.

  Raises InputError where data or runs are not in order, RunError where a run has failed.
  """
  local_engine.check(resources, num_workers)
  datasets = [name for name in contents if name != PUBLISHED]
  configs = {dataset: _configs(dataset, quick) for dataset in datasets}
  for of_dataset in configs.values():
    section = of_dataset['vae']['data']
    data.load(section['name'], section['data_dir'], 'test')  # not there: nothing is begun
  with workdir.locked(folder):
    (folder / 'paper').mkdir(exist_ok=True)
    parts = list(_parts(configs, figures))
    missing = [part for part in parts if not _is_computed(folder, part)]
    trials = _published(resources) if PUBLISHED in contents else []
    trials += _trials(missing, configs)
    _train(folder / 'runs', trials, resources, num_workers)
    studies = {name: Study(name, folder / 'runs', of_set) for name, of_set in configs.items()}
    for part in tqdm(missing, unit='figure', disable=not missing):
      arrays = part.module.compute(studies.get(part.dataset))
      for suffix in part.suffixes():
        _file(folder, part, suffix).unlink(missing_ok=True)
      figure_file.save(_file(folder, part, '.npz'), arrays, part.provenance)
    for part in parts:
      if not all(_file(folder, part, suffix).exists() for suffix in part.suffixes()):
        _draw(folder, part)
    _judge(folder, parts, configs)


def _configs(dataset: str, quick: bool) -> dict[str, dict]:
  variant = ',quick' if quick else ''
  return {name: runs.get_config(f'{dataset}_{name}{variant}').to_dict() for name in runs.RUNS}


def _parts(configs: Mapping[str, Mapping[str, dict]], figures: Sequence[str]) -> Iterator[Part]:
  """These figures for every data set, with what they are computed from."""
  shared = {'commit': workdir.commit(), 'versions': workdir.versions()}
  for name in figures:
    module = FIGURES[name]
    code = [Path(file.__file__).read_bytes() for file in (module, figure_file, trained, measures)]
    own = {'figure': name, 'code': hashlib.sha256(b''.join(code)).hexdigest(), **shared}
    for dataset in configs if module.RUNS else ('',):
      hashes = {run: workdir.config_hash(configs[dataset][run]) for run in module.RUNS}
      yield Part(name, dataset, module, own | {'runs': hashes})


def _file(folder: Path, part: Part, suffix: str) -> Path:
  return folder / 'paper' / f'{part.stem}{suffix}'


def _is_computed(folder: Path, part: Part) -> bool:
  """Whether the numbers are there, of this very figure, of runs with these very configs."""
  path = _file(folder, part, '.npz')
  if not path.exists():
    return False
  _, provenance = figure_file.load(path)
  return all(provenance.get(key) == part.provenance[key] for key in ('figure', 'code', 'runs'))


def _trials(missing: Sequence[Part], configs: Mapping[str, Mapping[str, dict]]) -> list[Trial]:
  """The runs that the missing figures need, those with a denoiser, the longest, first."""
  needed = {(run, part.dataset) for part in missing for run in part.module.RUNS}

  def place(pair: tuple[str, str]):
    run, dataset = pair
    return 'denoiser' not in configs[dataset][run], list(runs.RUNS).index(run), dataset

  return [
    _trial(f'{dataset}_{run}', configs[dataset][run]) for run, dataset in sorted(needed, key=place)
  ]


def _published(resources: Mapping) -> list[Trial]:
  """The runs whose numbers stand beside published ones."""
  has_accelerator = bool(resources['gpus'] or resources['tpus'])
  return [_trial(name, c.to_dict()) for name, c in published.runs(has_accelerator).items()]


def _trial(name: str, config: dict) -> Trial:
  return Trial(workdir.named(Path(), name, config).name, {}, config)


def _train(
  folder: Path, needed: Sequence[Trial], resources: Mapping, num_workers: int | None
) -> None:
  """Runs what is not done. Raises RunError where a run, or a seed of one, has failed."""
  files = {'classifier': ('results.json',)}
  waiting = [
    trial
    for trial in needed
    if not workdir.is_finished(
      folder / trial.name,
      trial.config,
      files.get(trial.config['method']['name'], ('results.json', 'samples.png')),
    )
  ]
  failed = {}
  with tqdm(total=len(needed), initial=len(needed) - len(waiting), unit='run') as bar:

    def report(state: str, name: str, text: str) -> None:
      if state == 'failed':
        failed[name] = text
      bar.set_postfix_str(f'{name} {state}', refresh=False)
      bar.update(state != 'running')

    for trial in waiting:
      (folder / trial.name).mkdir(parents=True, exist_ok=True)
      reporting.write_json(folder / trial.name / 'config.json', trial.config)
    local_engine.run(waiting, resources, folder, num_workers, report)
  for trial in needed:
    if trial.name not in failed:
      for seed, step in workdir.failed_seeds(folder / trial.name).items():
        failed[trial.name] = f'step {step} of seed {seed} was not finite; figures take all seeds'
  if failed:
    lines = '; '.join(f'{folder / name}: {text}' for name, text in failed.items())
    raise RunError(f'{len(failed)} of {len(needed)} runs have failed: {lines}')


def _draw(folder: Path, part: Part) -> None:
  """Draws a figure from its file."""
  from matplotlib import pyplot as plt

  arrays, _ = figure_file.load(_file(folder, part, '.npz'))
  drawn = part.module.draw(arrays)
  for suffix, metadata in (('.pdf', {'CreationDate': None}), ('.png', {'Software': None})):
    with reporting.replacing(_file(folder, part, suffix)) as temporary:
      drawn.savefig(temporary, format=suffix[1:], metadata=metadata)
  plt.close(drawn)
  if hasattr(part.module, 'animate'):
    frames, milliseconds = part.module.animate(arrays), part.module.FRAME_MILLISECONDS
    reporting.write_animation(_file(folder, part, '.gif'), frames, milliseconds)


def _commits_of_runs(folder: Path, part: Part, configs: Mapping[str, dict]) -> set[str]:
  """At which the runs of a figure were trained, of those that are still there."""
  paths = [workdir.named(folder, f'{part.dataset}_{run}', configs[run]) for run in part.module.RUNS]
  return {
    workdir.read_results(path)['provenance']['commit']
    for path in paths
    if (path / 'results.json').exists()
  }


def _judge(folder: Path, parts: Sequence[Part], configs: Mapping[str, Mapping[str, dict]]) -> None:
  """Writes the claims, the comparison with what is published, and the page."""
  arrays, found = {}, {}
  for part in parts:
    own, provenance = figure_file.load(_file(folder, part, '.npz'))
    arrays.setdefault(part.name, {})[part.dataset] = own
    of_dataset = found.setdefault(part.dataset, {'figures': set(), 'runs': set()})
    of_dataset['figures'].add(provenance['commit'])
    of_dataset['runs'] |= _commits_of_runs(folder / 'runs', part, configs.get(part.dataset, {}))
  commits = {
    dataset: {kind: sorted(own) for kind, own in of_dataset.items()}
    for dataset, of_dataset in sorted(found.items())
  }
  judged, compared = claims.judge(arrays), published.compare(folder / 'runs', arrays)
  words = {
    'claims.md': claims.markdown(judged),
    'results.md': published.markdown(compared),
    'index.html': page.html(parts, judged, compared, commits),
  }
  paper = folder / 'paper'
  reporting.write_json(paper / 'claims.json', {'commits': commits, 'claims': judged})
  reporting.write_json(paper / 'results.json', compared)
  for name, text in words.items():
    with reporting.replacing(paper / name) as temporary:
      temporary.write_text(text)
  print(f'{words["claims.md"]}\n{words["results.md"]}\n{paper / "index.html"}')
