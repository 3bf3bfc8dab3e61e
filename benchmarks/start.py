"""From the command to the first line of `metrics.jsonl`, `configs/digits_vae.py`.

That line follows the first 200 training steps. Cold: no compiled program is kept; warm: all are,
from the run before. Digits are prepared already. PyTorch, which TensorBoard's writer would import,
counts as not installed. The second table has the seconds of the imports by themselves, and the
packages that take most of them, with what they import first.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import timing

CONFIG = 'configs/digits_vae.py'
POLL_SECONDS = 0.01
MODULES = (
  'jax',
  'optax',
  'flax.linen',
  'orbax.checkpoint',
  'tensorflow_datasets',
  'tensorboardX',
  'scipy.stats',
  'sklearn',
)
WITHOUT_TORCH = """
import runpy, sys
class Hidden:
  def find_spec(name, path=None, target=None):
    if name == 'torch':
      raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden)
"""
RUN = WITHOUT_TORCH + 'runpy.run_module("experiments.run", run_name="__main__", alter_sys=True)'
IMPORT = WITHOUT_TORCH + 'import experiments.run, experiments.stages, vaediff.datasets.digits'


def run(num_turns: int) -> dict[str, list[dict]]:
  """Seconds to the first step, cold and warm; seconds of imports."""
  with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    _start(folder / 'first', 'cache')  # prepares digits
    seconds = {'cold': [], 'warm': []}
    for turn in range(num_turns):
      for kind, values in seconds.items():
        values.append(_start(folder / f'{kind}_{turn}', f'cache_{turn}'))
  rows = []
  for kind, values in seconds.items():
    timed = timing.summarize(values)
    rows.append(
      {
        'start': kind,
        'seconds': timed.median,
        'lower quartile': timed.lower,
        'upper quartile': timed.upper,
      }
    )
  return {'Start': rows, 'Imports': _imports()}


def _start(workdir: Path, cache: str) -> float:
  """Seconds until a run has written its first line; then it is ended."""
  folder = workdir.parent
  changes = {'JAX_COMPILATION_CACHE_DIR': folder / cache, 'TFDS_DATA_DIR': folder / 'data'}
  environment = os.environ | {name: str(value) for name, value in changes.items()}
  lines = workdir / 'metrics.jsonl'
  start = time.perf_counter()
  process = subprocess.Popen(
    [sys.executable, '-c', RUN, f'--config={CONFIG}', f'--workdir={workdir}'],
    env=environment,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  try:
    while not (lines.exists() and lines.stat().st_size):
      if process.poll() is not None:
        raise RuntimeError(f'the run ended with status {process.returncode} and wrote no metrics')
      time.sleep(POLL_SECONDS)
    return time.perf_counter() - start
  finally:
    process.kill()
    process.wait()


def _imports() -> list[dict]:
  done = subprocess.run(
    [sys.executable, '-X', 'importtime', '-c', IMPORT], capture_output=True, text=True, check=True
  )
  lines = re.findall(r'import time:\s+(\d+) \|\s+(\d+) \|\s+(\S+)', done.stderr)
  total = sum(int(own) for own, _, _ in lines)
  cumulative = {name: int(microseconds) for _, microseconds, name in lines}
  rows = [{'module': 'all', 'seconds': 1e-6 * total}]
  for name in MODULES:
    seconds = 1e-6 * cumulative[name] if name in cumulative else 'not imported'
    rows.append({'module': name, 'seconds': seconds})
  return rows
