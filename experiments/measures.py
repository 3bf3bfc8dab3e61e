"""What `evaluate` measures: likelihood, codes, the quality of samples, the chain level by level."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from experiments import storage, workdir
from experiments.build import build
from experiments.tools import EVALUATE, SAMPLE, Tools
from vaediff import data, forward_process, gaussian, likelihoods, parallel, training
from vaediff.checkpoints import Checkpoints
from vaediff.errors import InputError, RunError
from vaediff.evaluation import codes, likelihood, quality
from vaediff.methods.base import Variables
from vaediff.networks import inception

# Levels of a chain at which its drift is measured, from noise to data.
NUM_DRIFT_LEVELS = 11
INCEPTION_BATCH_SIZE = 50


def measure(tools: Tools, variables: Variables) -> list[tuple[dict[str, dict], dict]]:
  """All that a config asks for: metrics {name: {'value', 'stderr', 'unit'}}, and tables by name.

  Here and below, one entry for each seed.
  """
  config = tools.config
  metrics = [
    of_codes | of_split
    for of_codes, of_split in zip(
      code_metrics(tools, variables), scores(tools, variables), strict=True
    )
  ]
  tables = [{} for _ in metrics]
  if config['evaluation'].get('time_terms'):
    for table, terms in zip(tables, time_terms(tools, variables), strict=True):
      table['time_terms'] = terms
  if config['quality']['classifier'] and tools.method.sample is not None:
    for i, (measured, drift) in enumerate(sample_quality(tools, variables)):
      metrics[i] |= measured
      if drift is not None:
        tables[i]['drift'] = drift
  return list(zip(metrics, tables, strict=True))


def over_seeds(metrics: Sequence[dict[str, dict]]) -> dict[str, dict]:
  """The mean of each metric over the seeds, and the standard error of that mean.

  It says how the numbers vary with the seed, on this split. It is NaN for one seed.
  """
  values = {name: np.array([m[name]['value'] for m in metrics]) for name in metrics[0]}
  units = {name: metric['unit'] for name, metric in metrics[0].items()}
  return likelihood.summarize(values, units)


def scores(tools: Tools, variables: Variables) -> list[dict[str, dict]]:
  """The bound, or what the method has in its place: {name: {'value', 'stderr', 'unit'}}."""
  split = tools.experiment.dataset.evaluation
  terms = tools.scores(variables, tools.key(EVALUATE), split)
  if tools.method.log_likelihood_bound is not None:
    return [likelihood.summarize_bound(of_seed, split.x[0].size) for of_seed in terms]
  return [likelihood.summarize(of_seed, dict(tools.method.units)) for of_seed in terms]


def measure_between(tools: Tools, variables: Variables) -> list[dict[str, dict]]:
  """What is measured while training goes on: the scores, and of a code its active units."""
  metrics, code = scores(tools, variables), tools.method.code
  if code is None:
    return metrics
  active = [codes.active_units(code.latent, q) for q in _posteriors(tools, variables)]
  return [
    own | {'active_units': {'value': float(value), 'stderr': stderr, 'unit': 'units'}}
    for own, (value, stderr) in zip(metrics, active, strict=True)
  ]


def code_metrics(tools: Tools, variables: Variables) -> list[dict[str, dict]]:
  """Active units, information and the like, of the codes of the evaluation split."""
  code, num = tools.method.code, len(tools.experiment.dataset.evaluation.x)
  if code is None:
    return [{} for _ in tools.seeds]
  return [
    codes.summarize(code.latent, jax.random.split(key, num), q)
    for key, q in zip(tools.keys(SAMPLE), _posteriors(tools, variables), strict=True)
  ]


def _posteriors(tools: Tools, variables: Variables) -> list:
  """q(z | x) over the evaluation split."""
  return tools.posteriors(variables, tools.key(EVALUATE), tools.experiment.dataset.evaluation)


def time_terms(tools: Tools, variables: Variables) -> list[dict[str, list]]:
  """What each level t of a chain contributes.

  {'t': [T'], 'log_snr': [T'], name: {'value': [T'], 'stderr': [T']}}, for the T' levels that were
  drawn, each a mean over the examples that had it, with its standard error.
  """
  split = tools.experiment.dataset.evaluation
  terms = tools.over_split(tools.method.time_terms)(variables, tools.key(EVALUATE), split)
  return [_by_level(of_seed) for of_seed in terms]


def _by_level(terms: dict[str, np.ndarray]) -> dict[str, list]:
  t, log_snr = (terms.pop(name).reshape(-1) for name in ('t', 'log_snr'))
  levels, first = np.unique(t, return_index=True)
  table = {'t': levels.tolist(), 'log_snr': log_snr[first].tolist()}
  for name, term in terms.items():
    of_level = [term.reshape(-1)[t == level] for level in levels]
    table[name] = {
      'value': [float(np.mean(values, dtype=np.float64)) for values in of_level],
      'stderr': [likelihood.standard_error(values) for values in of_level],
    }
  return table


def sample_quality(tools: Tools, variables: Variables) -> list[tuple[dict[str, dict], dict | None]]:
  """The quality of samples in the features of a classifier, and the drift of the chain.

  The metrics, and for methods with a chain a table of its drift, else None.
  """
  num, dataset = tools.config['quality']['num_samples'], tools.experiment.dataset
  describe = load_classifier(tools.config, tools.devices)
  observe = tools.over_split(lambda variables, keys, batch: batch.x)
  reals = [
    observe(variables, tools.key(EVALUATE), split) for split in (dataset.train, dataset.evaluation)
  ]
  is_chain = tools.method.trajectory is not None
  drawn = tools.draw_chains(variables, num) if is_chain else tools.draw(variables, num)
  measured = []
  for train, held_out, fake in zip(*reals, drawn, strict=True):
    drift = None
    if is_chain:
      drift = _drift(fake, train, tools.experiment.num_levels)
      fake = likelihoods.quantize(fake['x'][:, -1], tools.experiment.num_levels)
    measured.append((_quality(tools, describe, train, held_out, np.asarray(fake)), drift))
  return measured


def _quality(tools: Tools, describe: Callable, train, held_out, fake) -> dict[str, dict]:
  settings, dataset = tools.config['quality'], tools.experiment.dataset
  real_described, fake_described = describe(train), describe(fake)
  metrics = quality.sample_quality(
    real_pictures=train,
    real_features=real_described['features'],
    real_labels=dataset.train.label,
    held_out_pictures=held_out,
    held_out_log_probs=describe(held_out)['log_probs'],
    fake_pictures=fake,
    fake_features=fake_described['features'],
    fake_log_probs=fake_described['log_probs'],
  )
  if settings['inception']:
    metrics['fid'] = _fid(Path(settings['inception']), train, fake)
  return metrics


def _fid(weights: Path, real: np.ndarray, fake: np.ndarray) -> dict:
  """The Frechet inception distance (Heusel et al. 2017) of samples to all training pictures."""
  params = inception.load(weights)
  describe = jax.jit(inception.features)

  def features(pictures: np.ndarray) -> np.ndarray:
    parts = [
      np.asarray(describe(params, pictures[index]))[valid]
      for index, valid in data.padded_batches(len(pictures), INCEPTION_BATCH_SIZE)
    ]
    return np.concatenate(parts)

  distance = quality.frechet_distance(features(real), features(fake))
  return {**distance._asdict(), 'unit': 'squared distance'}


def _drift(chains: dict[str, np.ndarray], train: np.ndarray, num_levels: int) -> dict:
  """`quality.drift` at levels spread over the chain, from noise to data.

  chains: as of `Tools.draw_chains`. train: training pictures on their levels, at least as many.
  """
  num, num_states = chains['log_snr'].shape
  levels = np.linspace(0, num_states - 1, NUM_DRIFT_LEVELS).round().astype(int)
  log_snr = chains['log_snr'][0, levels]
  table = {'log_snr': []}
  real = draw_states(train, num_levels, log_snr, num)
  for level, log_snr_t, x_t in zip(levels, log_snr, real, strict=True):
    measured = quality.drift(x_t.reshape(num, -1), chains['x'][:, level].reshape(num, -1))
    # Clean data have an infinite log-SNR, which JSON does not know.
    table['log_snr'].append(float(log_snr_t) if np.isfinite(log_snr_t) else None)
    for name, metric in measured.items():
      column = table.setdefault(name, {'unit': metric['unit'], 'value': [], 'stderr': []})
      column['value'].append(metric['value'])
      column['stderr'].append(metric['stderr'])
  return table


def draw_states(
  x: np.ndarray, num_levels: int, log_snr: Sequence[float], num: int
) -> Iterator[np.ndarray]:
  """Draws of q(x_t) [num, ...] at each log-SNR, of `num` of the pictures x, spread over them.

  x: on its levels. The draws are the same each time.
  """
  x_0 = likelihoods.center(x[np.arange(num) * len(x) // num], num_levels)
  for i, log_snr_t in enumerate(log_snr):
    q_t = forward_process.marginal(x_0, np.float32(log_snr_t))
    yield np.asarray(gaussian.sample(jax.random.fold_in(jax.random.key(0), i), q_t))


def check(config: dict, dataset: data.Dataset) -> None:
  """Raises InputError where what the quality of samples is measured by is missing or unfit."""
  settings = config['quality']
  if settings['classifier']:
    _classifier_config(config)
  if settings['inception']:
    if not settings['classifier']:
      raise InputError('quality.inception comes beside quality.classifier, which is empty')
    if dataset.train.x.shape[-1] != 3:
      raise InputError(
        f'quality.inception is for colour pictures, and {dataset.name} has '
        f'{dataset.train.x.shape[-1]} channel; leave it empty'
      )
    inception.load(settings['inception'])


def _classifier_config(config: dict) -> dict:
  """The config of the classifier that a config names."""
  folder = storage.path(config['quality']['classifier'])
  remedy = 'quality.classifier names the workdir of a finished classifier of the same data'
  if storage.checkpoints(folder, Path()) != folder / 'checkpoints':
    raise InputError(
      f'quality.classifier is {folder}, where checkpoints are not read from; copy it to a folder'
    )
  try:
    found = workdir.read_config(folder)
  except InputError as error:
    raise InputError(f'{error}; {remedy}') from error
  kinds = [
    {'method': section['method']['name'], 'seeds': section['seeds']}
    | section['data']
    | {'data_dir': ''}
    for section in (found, config)
  ]
  kinds[1] |= {'method': 'classifier', 'seeds': 1}
  if kinds[0] != kinds[1]:
    raise InputError(f'{folder} holds {kinds[0]}, and this run asks for {kinds[1]}; {remedy}')
  with Checkpoints(folder / 'checkpoints', read_only=True) as checkpoints:
    if found['training']['num_steps'] not in checkpoints.steps():
      raise InputError(f'{folder} has no checkpoint of its last step; {remedy}')
  found['data'] = config['data']
  found['evaluation']['batch_size'] = config['evaluation']['batch_size']
  return found


def load_classifier(config: dict, devices: Sequence[jax.Device]) -> Callable:
  """What the classifier that a config names says of pictures on the data's own levels.

  pictures [N, H, W, C] -> {'features': [N, F], 'log_probs': [N, C]}.
  """
  folder = storage.path(config['quality']['classifier'])
  config = _classifier_config(config)
  # Pictures come observed already: they are described as they are.
  experiment = build(config)._replace(observe=lambda keys, x: x)
  classifier = Tools(experiment, config, folder, devices)
  with Checkpoints(folder / 'checkpoints', read_only=True) as checkpoints:
    step, state = checkpoints.restore_newest(classifier.state_shapes())
  if step != config['training']['num_steps']:
    raise RunError(f'the last checkpoint of the classifier {folder} is damaged; train it again')
  variables = parallel.replicate(training.averaged(state), devices)

  def describe(pictures: np.ndarray):
    split = data.Split('described', pictures, np.full(len(pictures), -1, np.int32))
    (described,) = classifier.statistics(variables, classifier.key(EVALUATE), split)
    return described

  return describe
