"""What the stages share is compiled once."""

import jax
import numpy as np
import pytest

from configs import digits_diffusion, digits_vae
from experiments.build import build
from experiments.tools import EVALUATE, Tools
from vaediff import parallel

COMPILED = '/jax/core/compile/backend_compile_duration'


@pytest.fixture(scope='module')
def count():
  """count() -> how many programs were compiled so far."""
  events = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: events.append(event)
  )
  return lambda: events.count(COMPILED)


@pytest.mark.parametrize('config', [digits_vae, digits_diffusion], ids=['vae', 'diffusion'])
def test_training_evaluation_and_sampling_compile_once(config, count):
  config = config.get_config('tiny').to_dict()
  devices = jax.devices()[:2]
  tools = Tools(build(config), config, None, devices)
  state = parallel.replicate(tools.initial_state(), devices)

  def stages(state, first_step, num_samples):
    """A dispatch, then an evaluation and samples of what it has come to."""
    *_, done = tools.dispatches(state, first_step, first_step + 10)
    variables = tools.final_variables(done.state)
    tools.scores(variables, tools.key(EVALUATE), tools.experiment.dataset.evaluation)
    assert np.isfinite(parallel.unreplicate(done.metrics)['loss']).all()
    (drawn,) = tools.draw(variables, num_samples)
    assert len(drawn) == num_samples
    return done.state

  before = count()
  state = stages(state, 0, 5)
  after = count()
  assert after > before
  stages(state, 10, 20)
  assert count() == after
