"""What a run survives: full disks, damaged files, other machines, dead processes, NaN.

Kills at any moment are in tests/torture.py, signals in test_preemption.py.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vaediff.checkpoints import Checkpoints

ROOT = Path(__file__).parents[2]
# 40 steps; checkpoints of 30 and 40 stay.
CONFIG = (
  '--config=configs/digits_vae.py:tiny',
  '--config.training.num_steps=40',
  '--config.training.checkpoint_every=10',
  '--config.evaluation.every=20',
)
# Sums over devices are taken in another order: a few units in the last place of float32 at every
# step, which 40 steps of Adam carry on.
OTHER_ORDER = 1e-5


def start(*arguments, num_devices=1, **environment) -> subprocess.Popen:
  # As the fixture `run` has them.
  quick = os.environ['QUICK_XLA_FLAGS']
  flags = f'--xla_force_host_platform_device_count={num_devices} {quick}'
  return subprocess.Popen(
    [sys.executable, '-m', 'experiments.run', *map(str, arguments)],
    cwd=ROOT,
    env={**os.environ, 'XLA_FLAGS': flags, **environment},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process: subprocess.Popen, status: int = 0) -> tuple[str, str]:
  """What a process says on stdout and stderr; it has to end with this status."""
  said = process.communicate(timeout=300)
  assert process.returncode == status, said[1]
  return said


@pytest.fixture(scope='module')
def program(run):
  """program(*arguments, status=0, **options) -> (stdout, stderr) of a run that ends with status."""

  def program(*arguments, status=0, **options):
    done = run(*arguments, **options)
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr

  return program


def start_two(*arguments, **environment) -> list[subprocess.Popen]:
  """Two processes of two devices each; the environment is of the second one alone."""
  with contextlib.closing(socket.socket()) as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  return [
    start(
      *arguments,
      '--distributed',
      num_devices=2,
      JAX_COORDINATOR_ADDRESS=address,
      JAX_NUM_PROCESSES='2',
      JAX_PROCESS_ID=str(process),
      **(environment if process else {}),
    )
    for process in range(2)
  ]


def error(stderr: str) -> str:
  """The line of stderr that says what is wrong; there is no traceback."""
  assert 'Traceback' not in stderr
  (line,) = (line for line in stderr.splitlines() if line.startswith('error: '))
  return line


def state_of(workdir: Path) -> dict[str, np.ndarray]:
  """The arrays of the newest checkpoint, by path."""
  import jax
  import orbax.checkpoint as ocp

  with Checkpoints(workdir / 'checkpoints', read_only=True) as saved:
    folder = workdir / 'checkpoints' / str(saved.steps()[0]) / 'state'
  tree = ocp.StandardCheckpointer().restore(folder.absolute())
  return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(tree)}


def metrics_of(workdir: Path) -> list[dict]:
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def assert_close(workdir: Path, reference: Path) -> None:
  """Equal but for the order of sums: the whole state, and every line of metrics.jsonl."""
  ours, theirs = state_of(workdir), state_of(reference)
  assert ours.keys() == theirs.keys()
  flat = [
    np.concatenate([np.ravel(state[name]) for name in sorted(state)]) for state in (ours, theirs)
  ]
  assert np.linalg.norm(flat[0] - flat[1]) < OTHER_ORDER * np.linalg.norm(flat[1])
  for mine, other in zip(metrics_of(workdir), metrics_of(reference), strict=True):
    assert (mine['step'], mine['split']) == (other['step'], other['split'])
    name = 'loss' if mine['split'] == 'train' else 'nll_bound'
    assert mine[name] == pytest.approx(other[name], rel=OTHER_ORDER)


def assert_identical(workdir: Path, reference: Path) -> None:
  ours, theirs = state_of(workdir), state_of(reference)
  assert ours.keys() == theirs.keys()
  for name, value in theirs.items():
    np.testing.assert_array_equal(ours[name], value, err_msg=name)
  assert (workdir / 'metrics.jsonl').read_bytes() == (reference / 'metrics.jsonl').read_bytes()


@pytest.fixture(scope='module')
def one(tmp_path_factory, program):
  """A finished run on one device."""
  workdir = tmp_path_factory.mktemp('survival') / 'one'
  program(*CONFIG, f'--workdir={workdir}')
  return workdir


def cut_back(workdir: Path, copy: Path) -> Path:
  """A copy of a finished run as it was after its next-to-last checkpoint."""
  shutil.copytree(workdir, copy)
  shutil.rmtree(copy / 'checkpoints' / '40')
  for name in ('results.json', 'samples.npz', 'samples.png'):
    (copy / name).unlink()
  return copy


def test_two_runs_are_equal_bit_for_bit(one, tmp_path, program):
  program(*CONFIG, f'--workdir={tmp_path}/w')
  assert_identical(tmp_path / 'w', one)
  mine, theirs = (json.loads((w / 'results.json').read_text()) for w in (tmp_path / 'w', one))
  for results in (mine, theirs):
    del results['cost']
  assert mine == theirs
  with np.load(tmp_path / 'w' / 'samples.npz') as a, np.load(one / 'samples.npz') as b:
    np.testing.assert_array_equal(a['samples'], b['samples'])


def test_from_one_device_to_eight_and_back(one, tmp_path, program):
  more = cut_back(one, tmp_path / 'more')
  program(*CONFIG, f'--workdir={more}', num_devices=8)
  assert_close(more, one)
  fewer = cut_back(more, tmp_path / 'fewer')
  program(*CONFIG, f'--workdir={fewer}')
  assert_close(fewer, one)


def test_several_processes_train_like_one(one, tmp_path, program):
  """Two of two devices each like one of four; then from them to one device, and from it to them."""
  two = tmp_path / 'two'
  processes = start_two(*CONFIG, f'--workdir={two}')
  said = [finish(process) for process in processes]
  four = tmp_path / 'four'
  program(*CONFIG, f'--workdir={four}', num_devices=4)
  assert_close(two, four)
  # The primary alone has something to say, and writes.
  assert 'nll_bound' in said[0][0]
  assert said[1][0] == ''
  assert len(list((two / 'tensorboard').iterdir())) == 1
  with np.load(two / 'samples.npz') as a, np.load(one / 'samples.npz') as b:
    np.testing.assert_array_equal(a['samples'], b['samples'])
  back = cut_back(two, tmp_path / 'back')
  program(*CONFIG, f'--workdir={back}')
  assert_close(back, one)
  onward = cut_back(one, tmp_path / 'onward')
  for process in start_two(*CONFIG, f'--workdir={onward}'):
    finish(process)
  assert_close(onward, one)


def test_several_processes_refuse_wrong_input_together(one):
  arguments = (*CONFIG, f'--workdir={one}', '--config.optimizer.learning_rate=0.5')
  lines = [error(finish(process, status=2)[1]) for process in start_two(*arguments)]
  assert lines[0] == lines[1]
  assert 'optimizer.learning_rate' in lines[0]


def test_processes_of_other_packages_are_refused(tmp_path):
  """Each says what it has itself."""
  (tmp_path / 'sitecustomize.py').write_text(
    'import importlib.metadata as m\nversion = m.version\n'
    'm.version = lambda name: "0.0.1" if name == "optax" else version(name)\n'
  )
  processes = start_two(*CONFIG, f'--workdir={tmp_path}/w', PYTHONPATH=f'{tmp_path}:{ROOT}')
  lines = [error(finish(process, status=2)[1]) for process in processes]
  for i, line in enumerate(lines):
    assert f'processes 1 of 2 have another optax than process 0; this is process {i}' in line
  assert 'which has 0.0.1;' in lines[1]
  assert not (tmp_path / 'w').exists()


def test_the_others_end_when_one_process_dies(tmp_path):
  endless = ('--config.training.num_steps=100000000', f'--workdir={tmp_path}/w')
  survivor, victim = start_two(*CONFIG, *endless)
  wait_for(tmp_path / 'w' / 'metrics.jsonl')
  victim.kill()
  victim.communicate()
  died = time.monotonic()
  survivor.communicate(timeout=120)
  assert survivor.returncode != 0
  assert time.monotonic() - died < 90


def test_a_signal_to_one_process_stops_all_after_the_same_step(tmp_path):
  """By JAX's preemption service."""
  workdir = tmp_path / 'w'
  longer = ('--config.training.num_steps=2000', '--config.evaluation.every=0')
  processes = start_two(*CONFIG, *longer, f'--workdir={workdir}')
  wait_for(workdir / 'metrics.jsonl')
  processes[1].send_signal(signal.SIGTERM)
  said = [finish(process, status=-signal.SIGTERM)[1] for process in processes]
  steps = {re.search(r'stopped by SIGTERM after step (\d+) of 2000', text)[1] for text in said}
  (step,) = steps
  assert (workdir / 'checkpoints' / step).is_dir()
  assert metrics_of(workdir)[-1]['step'] == int(step)


def wait_for(path: Path) -> None:
  """Until the file has something in it."""
  deadline = time.monotonic() + 120
  while not (path.exists() and path.stat().st_size):
    assert time.monotonic() < deadline, f'{path} does not come'
    time.sleep(0.05)


def test_a_workdir_has_one_process_at_a_time(tmp_path, program):
  arguments = (*CONFIG, '--config.training.num_steps=100000000', f'--workdir={tmp_path}/w')
  first = start(*arguments)
  try:
    wait_for(tmp_path / 'w' / 'metrics.jsonl')
    assert 'is in use by another process' in error(program(*arguments, status=2)[1])
    assert first.poll() is None
  finally:
    first.kill()
    first.communicate()


@pytest.mark.parametrize('name', ['checkpoints', 'tensorboard', 'metrics.jsonl', 'results.json'])
def test_what_is_in_the_way_is_named(name, tmp_path, program):
  if '.' in name:
    (tmp_path / name).mkdir()
  else:
    (tmp_path / name).write_text('')
  line = error(program(*CONFIG, f'--workdir={tmp_path}', status=2)[1])
  assert f'{tmp_path / name} has to be a' in line
  assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(one, tmp_path, program):
  workdir = tmp_path / 'w'
  shutil.copytree(one, workdir)
  (workdir / 'results.json').unlink()
  for path in (workdir / 'checkpoints' / '40' / 'state').rglob('*'):
    if path.is_file():
      path.write_bytes(path.read_bytes()[:-1])
  _, said = program(*CONFIG, f'--workdir={workdir}')
  assert f'{workdir}/checkpoints/40 is damaged and not used' in said
  assert_identical(workdir, one)


def test_without_a_sound_checkpoint_a_run_stops(one, tmp_path, program):
  workdir = tmp_path / 'w'
  shutil.copytree(one, workdir)
  (workdir / 'results.json').unlink()
  for step in ('30', '40'):
    shutil.rmtree(workdir / 'checkpoints' / step / 'state')
  before = (workdir / 'metrics.jsonl').read_bytes()
  line = error(program(*CONFIG, f'--workdir={workdir}', status=1)[1])
  assert 'holds no sound checkpoint (steps 40, 30 are damaged)' in line
  assert (workdir / 'metrics.jsonl').read_bytes() == before


def test_a_checkpoint_of_another_model_is_refused(one, tmp_path, program):
  workdir = tmp_path / 'w'
  shutil.copytree(one, workdir)
  (workdir / 'results.json').unlink()
  config = json.loads((workdir / 'config.json').read_text())
  config['method']['latent_dim'] += 1
  (workdir / 'config.json').write_text(json.dumps(config))
  line = error(program(f'--workdir={workdir}', status=2)[1])
  assert 'is a checkpoint of another model' in line
  assert 'decoder' in line


def test_a_full_disk_leaves_the_checkpoints_before_it(tmp_path, program):
  """On a file system of 1,300 KiB; what is there then goes on elsewhere."""
  mounted, copy = tmp_path / 'small', tmp_path / 'copy'
  mounted.mkdir()
  steps = ('--config.training.num_steps=400', '--config.evaluation.every=0')
  command = ' '.join([sys.executable, '-m', 'experiments.run', *CONFIG, *steps])
  script = (
    f'mount -t tmpfs -o size=1300k tmpfs {mounted} || exit 77; {command} --workdir={mounted}/w; '
    f'status=$?; cp -r {mounted}/w {copy}; exit $status'
  )
  unshare = shutil.which('unshare')
  if unshare is None:
    pytest.skip('needs the command unshare')
  done = subprocess.run(
    [unshare, '--user', '--map-root-user', '--mount', 'sh', '-c', script],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
  )
  if not copy.exists() and done.returncode != 1:
    pytest.skip(f'needs user namespaces and tmpfs: {done.stderr.strip()}')
  assert done.returncode == 1, done.stderr
  assert 'make room, and start again' in error(done.stderr)
  reached = max(int(path.name) for path in (copy / 'checkpoints').iterdir())
  assert 0 < reached < 400
  shutil.rmtree(copy / 'damaged', ignore_errors=True)
  program(*CONFIG, *steps, f'--workdir={copy}')
  assert not (copy / 'damaged').exists()
  assert [line['step'] for line in metrics_of(copy)] == [*range(10, 401, 10), 400]


# A rate at which the second step overflows.
DIVERGING = ('--config.optimizer.learning_rate=3.0', '--config.optimizer.clip_norm=0.0')


@pytest.mark.parametrize('num_devices', [1, 2])
def test_a_step_that_is_not_finite_can_be_done_again(tmp_path, num_devices, program):
  workdir = tmp_path / 'w'
  line = error(
    program(*CONFIG, *DIVERGING, f'--workdir={workdir}', status=1, num_devices=num_devices)[1]
  )
  assert 'step 2: ' in line
  assert 'loss is inf' in line
  assert 'from training examples ' in line
  assert not (workdir / 'results.json').exists()
  assert not list((workdir / 'checkpoints').iterdir())
  # The command that the line gives.
  command = line.partition('see it again: ')[2].split()
  assert command[:3] == ['python', '-m', 'experiments.run']
  said, _ = program(*command[3:], num_devices=num_devices)
  assert 'the same as it was, bit for bit' in said
  assert said.splitlines()[0] in line
  # And where it goes otherwise, that is said.
  with np.load(workdir / 'replay.npz') as file:
    arrays = dict(file)
  arrays['failure'] = np.array(str(arrays['failure']).replace('"step": 2', '"step": 3'))
  np.savez(workdir / 'replay.npz', **arrays)
  line = error(program(*command[3:], status=1, num_devices=num_devices)[1])
  assert 'went otherwise than it did' in line


def test_nothing_to_replay(one, program):
  assert 'replay.npz cannot be read' in error(
    program(f'--workdir={one}', '--mode=replay', status=2)[1]
  )


def test_verify_says_whether_the_numbers_hold(one, tmp_path, program):
  workdir = tmp_path / 'w'
  shutil.copytree(one, workdir)
  before = {path: path.read_bytes() for path in workdir.rglob('*') if path.is_file()}
  said, _ = program(f'--workdir={workdir}', '--mode=verify')
  num = len(json.loads((workdir / 'results.json').read_text())['metrics'])
  assert f'all {num} numbers hold, {num} of them bit for bit' in said
  said, _ = program(f'--workdir={workdir}', '--mode=verify', num_devices=8)
  assert f'all {num} numbers hold' in said
  assert {path: path.read_bytes() for path in workdir.rglob('*') if path.is_file()} == before
  results = json.loads((workdir / 'results.json').read_text())
  results['metrics']['nll_bound']['value'] *= 1.001
  (workdir / 'results.json').write_text(json.dumps(results))
  line = error(program(f'--workdir={workdir}', '--mode=verify', status=1)[1])
  assert f'1 of {num} numbers do not hold: nll_bound' in line


def test_a_workdir_is_evaluated_without_its_config_file(one, tmp_path, program):
  """By its config.json, which is data and not code."""
  workdir = tmp_path / 'w'
  shutil.copytree(one, workdir)
  (workdir / 'results.json').unlink()
  program(f'--workdir={workdir}', '--mode=evaluate')
  mine, theirs = (json.loads((w / 'results.json').read_text()) for w in (workdir, one))
  assert mine['metrics'] == theirs['metrics']
  (workdir / 'config.json').write_text('{"seed": "import os"}')
  line = error(program(f'--workdir={workdir}', '--mode=evaluate', status=2)[1])
  assert 'config.json cannot be read as a config' in line
