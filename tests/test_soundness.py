"""What only training shows: learned variances stay finite, a collapsed VAE is recognised."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import variants
from experiments import build
from experiments.tools import Tools
from vaediff import likelihoods, parallel
from vaediff.evaluation import codes


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('variance', ['interpolated', 'free'])
def test_learned_variances_stay_finite(variance, dtype):
  """1,000 steps at T = 4000 from 5 seeds: every term, gradient and parameter is finite."""
  config = variants.get_config(f'diffusion_{variance},tiny')
  config.schedule.T = 4_000
  config.compute_dtype = dtype
  config.seeds = 5
  config.training.update(num_steps=1_000, steps_per_dispatch=1_000, batch_size=8)
  config = config.to_dict()
  tools = Tools(build.build(config), config, Path(), jax.devices()[:1])
  (progress,) = tools.dispatches(parallel.replicate(tools.initial_state(), tools.devices))
  state, metrics = parallel.unreplicate((progress.state, progress.metrics))
  assert state.step.tolist() == [1_000] * 5
  assert np.all([np.isfinite(values).all() for values in metrics.values()])
  assert np.all([np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.variables.params)])
  # Each has learned something, else finite numbers would say little.
  loss = metrics['loss']
  assert np.all(loss[:, -250:].mean(axis=1) < loss[:, :250].mean(axis=1))


def test_a_collapsed_vae_is_recognised(train):
  """At beta = 100 no unit is active, x and z share no information, and every code decodes to the
  same picture: the average of the data, each pixel on its nearest level.
  """
  config = variants.get_config('vae_collapsed')
  config.likelihood.update(scale='fixed', fixed_scale=0.3, name='discretized_normal')
  config.optimizer.weight_decay = 0.0
  config.training.num_steps = 1_500
  experiment = build.build(config.to_dict())
  _, variables, _ = train(experiment, num_steps=1_500, batch_size=128)
  code, x = experiment.method.code, experiment.dataset.train.x
  q = jax.jit(code.posterior)(variables, x)
  measured = codes.summarize(code.latent, jax.random.split(jax.random.key(0), len(x)), q)
  assert measured['active_units']['value'] == 0
  assert 0 <= measured['mutual_information']['value'] < 0.05
  z = code.latent.prior_sample(jax.random.split(jax.random.key(1), 16), code.dim)
  decoded = np.asarray(code.decode(variables, jax.random.split(jax.random.key(2), 16), z), float)
  average = x.mean(axis=0)
  assert np.abs(decoded - average).mean() < 0.5
  assert decoded.std(axis=0).max() < 0.2 * x.std(axis=0).max()
  assert jnp.ptp(likelihoods.center(average, 17)) > 1  # else anything would look average
