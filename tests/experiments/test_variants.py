"""Every variant trains, in tiny form; one of each method goes through all stages of the program.

That they evaluate and sample is tested by the contract (tests/methods/test_contract.py).
"""

import json
import math

import jax
import numpy as np
import pytest

from configs import variants
from experiments import build, stages


def trained_differently() -> list[str]:
  """The variants by name, but for those that differ from an earlier one after training alone."""
  names = {}
  for name in variants.VARIANTS:
    config = variants.get_config(f'{name},tiny').to_dict()
    for section in ('evaluation', 'sampler'):
      config.pop(section, None)
    names.setdefault(json.dumps(config, sort_keys=True), name)
  return list(names.values())


@pytest.mark.parametrize('name', trained_differently())
def test_a_variant_trains(name, train):
  """Parameters move, by finite losses and gradients."""
  experiment = build.build(variants.get_config(f'{name},tiny').to_dict())
  before, after, metrics = train(experiment, num_steps=5)
  for values in metrics.values():
    assert values.shape == (5,)
    assert np.all(np.isfinite(values))
  moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before.params, after.params)
  assert np.mean(jax.tree.leaves(moved)) > 0.7


@pytest.mark.parametrize(
  'name', ['autoencoder_mixture', 'vae_refined', 'denoising_chain', 'diffusion_optimal']
)
def test_a_method_runs_from_training_to_samples(name, tmp_path):
  config = variants.get_config(f'{name},tiny').to_dict()
  stages.run(config, tmp_path, 'train')
  results = json.loads((tmp_path / 'results.json').read_text())
  assert results['step'] == 20
  assert results['cost'].keys() == {'num_params', 'training_seconds'}
  for metric in results['metrics'].values():
    assert math.isfinite(metric['value'])
    assert metric['stderr'] >= 0
  samples = np.load(tmp_path / 'samples.npz')['samples']
  assert (samples.shape, samples.dtype) == ((16, 8, 8, 1), np.uint8)
  assert samples.max() < 17
