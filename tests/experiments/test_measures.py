"""What `evaluate` measures beside the likelihood, by the program's own stages, in tiny form."""

import json

import numpy as np
import pytest

from configs import digits_classifier, variants
from experiments import stages
from vaediff.errors import InputError

FEATURE_MEASURES = {'frechet_distance', 'precision', 'recall', 'density', 'coverage', 'sharpness'}


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('classifier')
  stages.run(digits_classifier.get_config('tiny').to_dict(), workdir, 'train')
  return workdir


def config_of(name: str, classifier, **quality) -> dict:
  config = variants.get_config(f'{name},tiny').to_dict()
  config['quality'] |= {'classifier': str(classifier), 'num_samples': 24, **quality}
  return config


def test_a_classifier_reports_its_accuracy_and_generates_nothing(classifier):
  metrics = json.loads((classifier / 'results.json').read_text())['metrics']
  assert metrics.keys() == {'loss', 'accuracy'}
  assert 0 < metrics['accuracy']['value'] < 1
  assert metrics['accuracy']['unit'] == '1'
  assert not (classifier / 'samples.png').exists()
  with pytest.raises(InputError, match='generates nothing'):
    stages.run(digits_classifier.get_config('tiny').to_dict(), classifier, 'sample')


def test_quality_drift_and_time_terms_of_diffusion(classifier, tmp_path):
  config = config_of('diffusion', classifier)
  config['evaluation']['time_terms'] = True
  stages.run(config, tmp_path, 'train')
  results = json.loads((tmp_path / 'results.json').read_text())
  floors = {f'{name}_floor' for name in FEATURE_MEASURES}
  others = {'training_distance', 'class_entropy', 'class_balance', 'nll_bound'}
  assert FEATURE_MEASURES | floors | others < results['metrics'].keys()
  assert results['cost']['seconds_per_1000_samples'] > 0
  # After 20 steps samples are far from data, and the floor is not.
  distance, floor = (results['metrics'][n] for n in ('frechet_distance', 'frechet_distance_floor'))
  assert distance['value'] > floor['value'] + 3 * floor['stderr']

  drift = json.loads((tmp_path / 'drift.json').read_text())
  assert drift['log_snr'][0] == pytest.approx(-5.0)
  assert drift['log_snr'][-1] is None  # clean data
  # Both begin at almost N(0, I); an untrained chain ends elsewhere.
  change = drift['variance_change']
  assert abs(change['value'][0]) < 5 * change['stderr'][0]
  assert abs(change['value'][-1]) > 5 * change['stderr'][-1]

  terms = json.loads((tmp_path / 'time_terms.json').read_text())
  assert set(terms['t']) <= set(range(1, 21))
  assert len(terms['t']) > 10
  for name in ('bound_term', 'x_0_error', 'calibration'):
    assert len(terms[name]['value']) == len(terms[name]['stderr']) == len(terms['t'])
    assert np.all(np.array(terms[name]['value']) > 0)


def test_quality_of_an_autoencoder_without_a_bound(classifier, tmp_path):
  stages.run(config_of('autoencoder_normal', classifier), tmp_path, 'train')
  metrics = json.loads((tmp_path / 'results.json').read_text())['metrics']
  assert {'loss', 'active_units', 'moment_kl', 'frechet_distance'} < metrics.keys()
  assert 'nll_bound' not in metrics
  assert not (tmp_path / 'drift.json').exists()


@pytest.mark.parametrize(
  ('name', 'workdir', 'quality', 'message'),
  [
    ('vae', 'nowhere', {}, 'cannot be read'),
    ('vae_bernoulli', 'classifier', {}, 'this run asks for'),
    ('vae', 'classifier', {'inception': 'weights.npz'}, 'is for colour pictures'),
    ('vae', '', {'inception': 'weights.npz'}, 'quality.classifier, which is empty'),
  ],
)
def test_what_cannot_measure_is_refused_before_training(
  name, workdir, quality, message, classifier, tmp_path
):
  folder = {'classifier': classifier, 'nowhere': tmp_path / 'nowhere', '': ''}[workdir]
  with pytest.raises(InputError, match=message):
    stages.run(config_of(name, folder, **quality), tmp_path / 'w', 'train')
  assert not (tmp_path / 'w').exists()


def test_a_trajectory_is_refused_where_there_is_none(tmp_path):
  config = variants.get_config('vae,tiny').to_dict()
  config['sampling']['trajectory'] = True
  with pytest.raises(InputError, match='has none'):
    stages.run(config, tmp_path / 'w', 'train')
  assert not (tmp_path / 'w').exists()


def evaluated(config: dict, workdir, **evaluation) -> dict:
  """results.json of a finished run after another evaluation of it."""
  config = config | {'evaluation': config['evaluation'] | evaluation}
  stages.run(config, workdir, 'evaluate')
  return json.loads((workdir / 'results.json').read_text())


def test_one_interface_for_every_likelihood_of_a_vae(tmp_path):
  """Same names and units; more draws of the importance-weighted bound are worth nats."""
  config = variants.get_config('vae,tiny').to_dict()
  stages.run(config, tmp_path, 'train')
  bounds = {}
  for likelihood in ('elbo', 'importance_weighted', 'annealed'):
    results = evaluated(config, tmp_path, likelihood=likelihood, num_draws=20, num_temperatures=20)
    assert results['protocol']['likelihood'] == likelihood
    assert results['metrics']['nll_bound']['unit'] == 'nats'
    assert results['metrics']['bits_per_dim']['unit'] == 'bits/dim'
    bounds[likelihood] = results['metrics']['nll_bound']['value']
  assert bounds['importance_weighted'] < bounds['elbo'] - 0.1
  assert abs(bounds['annealed'] - bounds['importance_weighted']) < 1


def test_one_interface_for_every_likelihood_of_diffusion(tmp_path):
  config = variants.get_config('diffusion,tiny').to_dict()
  stages.run(config, tmp_path, 'train')
  for likelihood, names in (
    ('bound', {'prior_kl', 'diffusion_kl', 'reconstruction'}),
    ('continuous', {'prior_kl', 'diffusion_kl', 'reconstruction'}),
    ('probability_flow', set()),
  ):
    results = evaluated(config, tmp_path, likelihood=likelihood)
    assert results['protocol']['likelihood'] == likelihood
    assert results['metrics'].keys() == names | {'nll_bound', 'bits_per_dim'}
    assert results['metrics']['nll_bound']['unit'] == 'nats'
