"""Runs the trials of a sweep on a Ray cluster: Ray Tune places them, and starts them again.

A trial is the same process that the local engine starts, with the same number of threads, so that
its numbers are the same; Ray's worker is only its parent. Where a worker or a node is lost, its
trials end too, saving if they can, and Ray Tune starts them elsewhere, where they resume from their
own checkpoints: all nodes have to see the sweep's folder, and to have this project installed.

A trial on several hosts is placed by Ray Train's JaxTrainer, on a TPU slice or on GPUs; each of its
workers starts one of the trial's processes, which find each other by jax.distributed.

Sources: Ray 2.60; ASHA is Li et al. 2020, "A system for massively parallel hyperparameter tuning".
"""

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# Before Ray is imported: its second version of Train has JaxTrainer; SIGINT is the sweep's own; and
# what a trial reports last, how it has ended, has no metric.
os.environ['RAY_TRAIN_V2_ENABLED'] = '1'
os.environ['TUNE_DISABLE_SIGINT_HANDLER'] = '1'
os.environ['TUNE_DISABLE_STRICT_METRIC_CHECKING'] = '1'

import ray
import ray.train
import ray.tune
from ray.train.collective import broadcast_from_rank_zero
from ray.train.v2.jax import JaxConfig, JaxTrainer
from ray.tune.schedulers import ASHAScheduler

from experiments import local_engine, preemption, storage, workdir
from experiments.trial import STOP_SECONDS
from experiments.trials import Trial
from vaediff.errors import InputError

# What the environment of a trial is made of, beside that of the node.
_VARIABLES = ('XLA_FLAGS', 'TFDS_DATA_DIR')
_POLL_SECONDS = 0.2
# The file that tells the trials of a sweep to stop.
_STOP = '.stop'
# What a worker takes that waits for those of a trial on several hosts: Ray knows no nothing.
_WAITING = {'CPU': 0.001}


class EarlyStopping(NamedTuple):
  """ASHA: ends the trials that, of those as far, are not among the best of this metric.

  metric: its name in metrics.jsonl, at each evaluation. best: 'min' or 'max'. first_step: before
  which no trial is ended. num_steps: of a whole trial.
  """

  metric: str
  best: str
  first_step: int
  num_steps: int


def run(
  trials: Sequence[Trial],
  resources: Mapping,
  folder: Path,
  num_workers: int | None,
  report: Callable[[str, str, str], None],
  early_stopping: EarlyStopping | None = None,
) -> None:
  """Runs the trials, whose workdirs are in the folder: see `local_engine.run`.

  On the cluster at RAY_ADDRESS, or on one of this machine alone, for as long as the sweep runs. A
  trial that early stopping has ended is reported as 'stopped'.
  """
  if not trials:
    return
  folder = folder if storage.is_remote(folder) else folder.absolute()
  (folder / _STOP).unlink(missing_ok=True)
  variables = {k: v for k, v in os.environ.items() if k in _VARIABLES or k.startswith('JAX_')}
  with _Signals(folder) as signals:
    with warnings.catch_warnings():
      # Ray forks, and JAX warns of it; but the fork is another program at once.
      warnings.simplefilter('ignore', RuntimeWarning)
      ray.init(runtime_env={'env_vars': variables}, log_to_driver=False, logging_level='error')
    try:
      if 'RAY_ADDRESS' not in os.environ:  # other clusters may grow
        _check_room(resources)
      signals.listen()
      _tune(trials, resources, folder, num_workers, [_Report(report), signals], early_stopping)
    finally:
      ray.shutdown()


class _Signals(ray.tune.Callback):
  """Has SIGTERM and SIGINT wait until the trials have saved and stopped, and Ray has shut down.

  An exception that a handler raises inside of Ray's own code becomes another one there, and when
  Ray shuts down it kills all at once: so a file tells the trials to stop, wherever they are.
  """

  def __init__(self, folder: Path):
    self._folder, self._handlers, self._received = folder, {}, []
    self._running, self._end = None, 0.0

  def __getstate__(self):
    return {}  # of the copy that Ray Tune keeps to restore from

  def listen(self) -> None:
    """Listens, in the place of the handlers that Ray has set."""
    for signum in preemption.SIGNALS:
      signal.signal(signum, self._hear)

  def on_step_end(self, iteration, trials, **info):
    if not self._received:
      return
    if self._running is None:
      (self._folder / _STOP).write_text('')
      self._running = [trial for trial in trials if trial.status == 'RUNNING']
      self._end = time.monotonic() + STOP_SECONDS
    still_run = any(trial.status == 'RUNNING' for trial in self._running)
    if not still_run or time.monotonic() > self._end:
      raise _ToldError

  def __enter__(self):
    self._handlers = {signum: signal.getsignal(signum) for signum in preemption.SIGNALS}
    return self

  def __exit__(self, kind, *_) -> bool:
    for signum, handler in self._handlers.items():
      signal.signal(signum, handler)
    if self._received:
      signal.raise_signal(self._received[0])
    return kind is _ToldError

  def _hear(self, signum: int, _) -> None:
    self._received.append(signum)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends the sweep at once


class _ToldError(BaseException):
  """The sweep was told to stop. No Exception, so that Ray Tune does not take it for a fault."""


def _tune(trials, resources, folder, num_workers, callbacks, early_stopping) -> None:
  num_steps = early_stopping and early_stopping.num_steps
  several = resources['hosts'] > 1
  work = ray.tune.with_parameters(
    _on_hosts if several else _on_one, folder=folder, resources=dict(resources), num_steps=num_steps
  )
  scheduler = None
  if early_stopping:
    scheduler = ASHAScheduler(
      time_attr='step',
      metric=early_stopping.metric,
      mode=early_stopping.best,
      grace_period=early_stopping.first_step,
      max_t=num_steps,
    )
  with tempfile.TemporaryDirectory() as kept:  # what Ray Tune keeps; a trial keeps its own
    ray.tune.Tuner(
      ray.tune.with_resources(work, _WAITING if several else _as_ray(resources)),
      param_space={'name': ray.tune.grid_search([trial.name for trial in trials])},
      tune_config=ray.tune.TuneConfig(
        max_concurrent_trials=num_workers, scheduler=scheduler, reuse_actors=False
      ),
      run_config=ray.tune.RunConfig(
        storage_path=kept,
        verbose=0,
        failure_config=ray.tune.FailureConfig(max_failures=local_engine.NUM_RETRIES),
        callbacks=callbacks,
      ),
    ).fit()


class _Report(ray.tune.Callback):
  """Reports the states of trials as an engine does."""

  def __init__(self, report: Callable[[str, str, str], None]):
    self._report = report

  def __getstate__(self):
    return {}  # of the copy that Ray Tune keeps to restore from

  def on_trial_start(self, iteration, trials, trial, **info):
    self._report('running', trial.config['name'], '')

  def on_trial_recover(self, iteration, trials, trial, **info):
    self._report('waiting', trial.config['name'], '')

  def on_trial_complete(self, iteration, trials, trial, **info):
    outcome = trial.last_result
    if 'status' not in outcome:
      self._report('stopped', trial.config['name'], '')
    else:
      state = {None: 'waiting', 0: 'done'}.get(outcome['status'], 'failed')
      self._report(state, trial.config['name'], outcome['reason'])

  def on_trial_error(self, iteration, trials, trial, **info):
    reason = f'lost {local_engine.NUM_RETRIES + 1} times, with its worker or its node'
    self._report('failed', trial.config['name'], reason)


def _on_one(config: Mapping, folder: Path, resources: Mapping, num_steps: int | None) -> dict:
  """Runs a trial in a process on this node; the worker's result says how it has ended."""
  own = folder / config['name']
  process = local_engine.start(own, local_engine.environment(resources))
  return _outcome(_wait(process, own, num_steps), own)


def _on_hosts(config: Mapping, folder: Path, resources: Mapping, num_steps: int | None) -> dict:
  """Runs a trial in a process on each of several hosts."""
  own = folder / config['name']
  with tempfile.TemporaryDirectory() as kept:
    result = JaxTrainer(
      _on_host,
      train_loop_config={'folder': own, 'resources': resources},
      # The processes join by themselves: Ray's worker is only the parent of one.
      jax_config=JaxConfig(),
      scaling_config=ray.train.ScalingConfig(
        num_workers=resources['hosts'],
        use_tpu=resources['tpus'] > 0,
        use_gpu=resources['gpus'] > 0,
        topology=resources['topology'] or None,
        accelerator_type=resources['accelerator'] or None,
        resources_per_worker=_as_ray(resources),
        # A host each; those of a TPU slice Ray knows.
        placement_strategy='SPREAD' if resources['tpus'] else 'STRICT_SPREAD',
      ),
      run_config=ray.train.RunConfig(
        storage_path=kept,
        failure_config=ray.train.FailureConfig(max_failures=local_engine.NUM_RETRIES),
      ),
    ).fit()
  return _outcome(result.return_value, own)  # of process 0


def _on_host(config: Mapping) -> int | None:
  """Runs one of the processes of a trial on several hosts; returns its status, as `_wait`."""
  context = ray.train.get_context()
  address = broadcast_from_rank_zero(_free_address())
  environment = {
    'JAX_COORDINATOR_ADDRESS': address,
    'JAX_NUM_PROCESSES': str(context.get_world_size()),
    'JAX_PROCESS_ID': str(context.get_world_rank()),
  }
  environment |= local_engine.environment(config['resources'])
  log = workdir.LOG if context.get_world_rank() == 0 else f'log_{context.get_world_rank()}.txt'
  process = local_engine.start(config['folder'], environment, ['--distributed'], log)
  return _wait(process, config['folder'])


def _free_address() -> str:
  with socket.socket() as free:
    free.bind(('', 0))
    return f'{ray.util.get_node_ip_address()}:{free.getsockname()[1]}'


def _wait(process: subprocess.Popen, own: Path, num_steps: int | None = None) -> int | None:
  """The status of the trial in the folder `own` at its end; None where the sweep has stopped it.

  num_steps: of the trial, whose evaluations before its last step are reported as they come. Raises
  RuntimeError where something else has killed it.
  """
  num_seen = 0
  try:
    while process.poll() is None:
      if (own.parent / _STOP).exists():
        return None
      if num_steps:
        lines = _metrics(own)
        for line in lines[num_seen:]:
          if line['split'] != 'train' and line['step'] < num_steps:
            ray.tune.report(line)
        num_seen = max(num_seen, len(lines))
      time.sleep(_POLL_SECONDS)
  finally:
    local_engine.stop([process])
  if process.returncode < 0:
    raise RuntimeError(f'killed by signal {-process.returncode}')
  return process.returncode


def _metrics(folder: Path) -> list[dict]:
  """The whole lines of metrics.jsonl as they are now."""
  path = folder / 'metrics.jsonl'
  text = path.read_text() if path.exists() else ''
  return [json.loads(line) for line in text[: text.rfind('\n') + 1].splitlines()]


def _outcome(status: int | None, folder: Path) -> dict:
  return {'status': status, 'reason': local_engine.reason(status, folder) if status else ''}


def _as_ray(resources: Mapping) -> dict[str, int]:
  """What a process of a trial gets, as Ray names it."""
  amounts = {'CPU': resources['cpus'], 'GPU': resources['gpus'], 'TPU': resources['tpus']}
  return {name: amount for name, amount in amounts.items() if amount}


def _check_room(resources: Mapping) -> None:
  """Raises InputError where no node has what a process of a trial needs: it would wait forever."""
  nodes = [node['Resources'] for node in ray.nodes() if node['Alive']]
  needed = _as_ray(resources)
  fitting = [n for n in nodes if all(n.get(name, 0) >= v for name, v in needed.items())]
  if len(fitting) < 1:
    raise InputError(f'no node of the Ray cluster has {needed}, which is what a trial takes')
