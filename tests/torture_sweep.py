"""Kills what runs a sweep on a Ray cluster, and compares what it ends with, byte for byte.

  python tests/torture_sweep.py [--folder=F]

On a cluster of two nodes on this machine, each with one core, a trial is killed in the middle, then
the Ray worker that has started one; then a node is removed and another one comes; then the sweep is
told to stop, and is started again. All by SIGKILL but the last. What it ends with has to be that of
the local engine, once with one trial at a time and once with two: the table, and of each trial its
metrics, its samples and the arrays of its last checkpoint. And trials on two hosts, which Ray
Train's JaxTrainer places, have to end with the bits of two processes that are started by hand.

Exit status: 0 where all is the same, 1 where it is not.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from ray.cluster_utils import Cluster

ROOT = Path(__file__).parents[1]
NUM_STEPS, LIMIT_SECONDS, POLL_SECONDS = 2_000, 1_800, 0.05
SWEEP = f"""
from configs import variants

def get_sweep():
  config = variants.get_config('diffusion_importance,tiny').unlock()
  config.training.update(num_steps={NUM_STEPS}, steps_per_dispatch=10, checkpoint_every=100)
  return {{
    'config': config,
    'grid': {{'optimizer.learning_rate': (1e-3, 3e-3, 1e-2)}},
    'seeds': (0, 1),
    'collect': ('metrics.nll_bound.value', 'metrics.prior_kl.value'),
  }}
"""
ENVIRONMENT = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}


def start(file: Path, folder: Path, *arguments: str, **environment: str) -> subprocess.Popen:
  """Starts the sweep."""
  command = [sys.executable, '-m', 'experiments.sweep', f'--sweep={file}', f'--workdir={folder}']
  return subprocess.Popen([*command, *arguments], cwd=ROOT, env=ENVIRONMENT | environment)


def finish(process: subprocess.Popen, status: int = 0) -> None:
  """Waits for the sweep's end. Raises RuntimeError where it ends otherwise."""
  if process.wait(LIMIT_SECONDS) != status:
    raise RuntimeError(f'the sweep ends with status {process.returncode}')


def running(folder: Path) -> psutil.Process | None:
  """A trial of a sweep that trains now, with some lines of metrics and with steps to go."""
  for process in psutil.process_iter():
    with contextlib.suppress(psutil.Error, OSError, ValueError, LookupError):
      arguments = process.cmdline()
      trial = Path(arguments[-1].partition('=')[2])
      if 'experiments.trial' not in arguments or folder not in trial.parents:
        continue
      lines = (trial / 'metrics.jsonl').read_text().splitlines()
      is_ours = process.parent().name().startswith('ray::')  # those before may still be saving
      if is_ours and len(lines) > 1 and json.loads(lines[-1])['step'] < NUM_STEPS / 2:
        return process
  return None


def wait_for(what: Callable):
  """What comes, when it comes."""
  end = time.monotonic() + LIMIT_SECONDS
  while time.monotonic() < end:
    if found := what():
      return found
    time.sleep(POLL_SECONDS)
  raise TimeoutError('nothing happens')


def torment(file: Path, folder: Path) -> None:
  """Runs the sweep on a cluster, and kills all that there is to kill."""
  cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 0})
  try:
    for _ in range(2):
      cluster.add_node(num_cpus=1)
    address = {'RAY_ADDRESS': cluster.address}
    sweep = start(file, folder, '--engine=ray', **address)
    trial = wait_for(lambda: running(folder))
    print(f'kill {trial.pid}, a trial', flush=True)
    trial.kill()
    worker = wait_for(lambda: running(folder)).parent()
    print(f'kill {worker.pid}, {worker.name()}', flush=True)
    worker.kill()
    raylet = wait_for(lambda: running(folder)).parent().parent().pid
    (node,) = (
      node
      for node in cluster.worker_nodes
      if raylet in (info.process.pid for info in node.all_processes['raylet'])
    )
    print(f'remove the node of raylet {raylet}', flush=True)
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(num_cpus=1)
    wait_for(lambda: running(folder))
    print('stop the sweep', flush=True)
    sweep.send_signal(signal.SIGTERM)
    finish(sweep, -signal.SIGTERM)
    if (folder / 'sweep.json').exists():
      raise RuntimeError('the sweep has ended before all was killed')
    finish(start(file, folder, '--engine=ray', **address))
  finally:
    cluster.shutdown()


def differences(reference: Path, folder: Path) -> list[str]:
  """In what a finished sweep differs from the reference."""
  names = ['sweep.json', 'sweep.csv', 'sweep.md']
  for trial in sorted((reference / 'trials').iterdir()):
    files = (
      'config.json',
      'metrics.jsonl',
      'samples.png',
      f'checkpoints/{NUM_STEPS}/contents/metadata',
    )
    names += [str((trial / file).relative_to(reference)) for file in files]
  return [n for n in names if (reference / n).read_bytes() != (folder / n).read_bytes()]


def two_hosts(file: Path, root: Path) -> list[str]:
  """In what trials on two hosts differ, which JaxTrainer has placed or a hand has started."""
  cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 0})
  try:
    for _ in range(2):
      cluster.add_node(num_cpus=2)  # Ray Tune takes a thousandth of a core to watch them
    arguments = '--engine=ray', '--resources=hosts=2', '--workers=1'
    finish(start(file, root / 'hosts', *arguments, RAY_ADDRESS=cluster.address))
  finally:
    cluster.shutdown()
  (trial,) = (root / 'hosts' / 'trials').iterdir()
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  command = [sys.executable, '-m', 'experiments.run', f'--workdir={root / "hand"}', '--distributed']
  command.append(f'--config=experiments/recorded.py:{trial}')
  variables = {'JAX_COORDINATOR_ADDRESS': address, 'JAX_NUM_PROCESSES': '2', 'NPROC': '1'}
  processes = [
    subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT | variables | {'JAX_PROCESS_ID': str(i)})
    for i in range(2)
  ]
  for process in processes:
    finish(process)
  files = 'metrics.jsonl', 'samples.png'
  return [f for f in files if (trial / f).read_bytes() != (root / 'hand' / f).read_bytes()]


def torture(root: Path) -> int:
  """Runs the sweeps under the folder root; returns the exit status."""
  begin = time.monotonic()
  file, wrong = root / 'sweep.py', {}
  file.write_text(SWEEP)
  for num in (1, 2):
    finish(start(file, root / f'local_{num}', f'--workers={num}'))
  wrong['one and two at a time'] = differences(root / 'local_1', root / 'local_2')
  torment(file, root / 'ray')
  wrong['local and on a cluster'] = differences(root / 'local_1', root / 'ray')
  file.write_text(SWEEP.replace('(1e-3, 3e-3, 1e-2)', '(1e-3,)').replace('(0, 1)', '(0,)'))
  wrong['two hosts'] = two_hosts(file, root)
  for name, files in wrong.items():
    print(f'{name}: {", ".join(files) or "the same"}')
  print(f'{(time.monotonic() - begin) / 60:.1f} min')
  return 1 if any(wrong.values()) else 0


def main(arguments: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--folder', type=Path, help='where the sweeps are kept; default: nowhere')
  options = parser.parse_args(arguments)
  with tempfile.TemporaryDirectory() as temporary:
    root = options.folder or Path(temporary)
    root.mkdir(parents=True, exist_ok=True)
    return torture(root.absolute())


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
