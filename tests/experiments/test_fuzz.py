"""Any config that passes the schema is refused when it is built, or all of its functions trace."""

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs import digits_classifier, digits_diffusion, variants
from experiments import build, schema
from vaediff import data, training
from vaediff.errors import InputError
from vaediff.methods.base import Batch

BASES = {
  'classifier': digits_classifier.get_config('tiny'),
  'diffusion_unet': digits_diffusion.get_config('tiny'),
  **{
    name: variants.get_config(f'{name},tiny')
    for name in (
      'autoencoder',
      'vae_full',
      'vae_conv',
      'vae_bernoulli',
      'vae_cyclical',
      'vae_mixture',
      'denoising_chain',
      'denoising_chain_separate',
      'diffusion',
      'diffusion_hybrid',
      'diffusion_conditional',
      'diffusion_continuous',
      'diffusion_learned_schedule',
      'diffusion_optimal',
      'diffusion_transformer',
      'diffusion_2m',
    )
  },
}
# What a field may be set to, where its schema allows it: edges, and what fits to little else.
POOL = (
  *(0, 1, 2, 3, 4, 5, 7, 8, 16, 20, 21, 1000, 2**31 - 1),
  *(-1e30, -5.0, 0.0, 1e-30, 1e-3, 0.5, 0.999, 1.0, 1.5, 7.5, 1e30),
  *((), (1,), (3,), (8,), (8, 16), (7, 3), (4, 4, 4, 4), (2,) * 9),
  *(False, True),
)
NUM_EXAMPLES = 4


@pytest.fixture(scope='module', autouse=True)
def _read_once():
  """The digits are read once, not by each of the builds."""
  with pytest.MonkeyPatch.context() as patch:
    digits = {split: data.load('digits', None, split) for split in data.EVALUATION_SPLITS}
    patch.setattr(data, 'load', lambda name, data_dir, split: digits[split])
    yield


def fields_of(section: dict, allowed, path: str = ''):
  """(section, name, its schema) of each field, and (section, None, the variants) of each family."""
  if isinstance(allowed, schema.Variants):
    yield section, None, allowed
    allowed = allowed.sections[section['name']]
  for name, field in allowed.items():
    if not isinstance(field, schema.Field):
      yield from fields_of(section[name], field)
    elif field is not schema.STRING:
      yield section, name, field


@st.composite
def edited_configs(draw):
  """A shipped config in tiny form with one to four random edits that the schema allows."""
  config = BASES[draw(st.sampled_from(sorted(BASES)))].to_dict()
  allowed = schema.COMMON | schema.METHODS[config['method']['name']]
  for _ in range(draw(st.integers(1, 4))):
    section, name, field = draw(st.sampled_from(list(fields_of(config, allowed))))
    if name is not None:
      section[name] = draw(values_of(field))
      continue
    variant = draw(st.sampled_from(sorted(field.sections)))
    section.clear()
    section['name'] = variant
    section |= {key: draw(values_of(inner)) for key, inner in field.sections[variant].items()}
  return config


def values_of(field: schema.Field):
  choices = field.allowed.removeprefix('one of ').split(', ')
  return st.sampled_from([value for value in (*POOL, *choices) if field.holds(value)])


def trace(experiment: build.Experiment) -> None:
  """Traces what a run calls, without computing anything."""
  method, split = experiment.method, experiment.dataset.train
  index = np.arange(NUM_EXAMPLES, dtype=np.int32)
  batch = Batch(split.x[:NUM_EXAMPLES], split.label[:NUM_EXAMPLES], index)

  def call(key):
    state = training.init(key, method, experiment.optimizer, batch)
    keys, variables = jax.random.split(key, NUM_EXAMPLES), state.variables
    observed = batch._replace(x=experiment.observe(keys, batch.x))
    terms = method.loss(variables, keys, observed, state.step)
    assert terms['loss'].shape == (NUM_EXAMPLES,)
    for f in (method.log_likelihood_bound, method.scores, method.statistics, method.time_terms):
      if f is not None:
        f(variables, keys, observed)
    # Codes are fitted on the host.
    if method.sample is not None and not (method.fit and method.code):
      samples = method.sample(variables, keys, batch.label)
      assert (samples.shape, samples.dtype) == (batch.x.shape, batch.x.dtype)

  jax.eval_shape(call, jax.random.key(0))


@settings(
  max_examples=40,
  deadline=None,
  derandomize=True,
  suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
)
@given(edited_configs())
def test_what_is_built_can_be_run(config):
  try:
    schema.check(config)
    experiment = build.build(config)
  except InputError:
    return
  trace(experiment)
