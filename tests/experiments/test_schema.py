"""Every shipped config passes the schema, and whatever does not pass raises InputError alone."""

import contextlib
import importlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import compare, variants
from experiments import schema
from vaediff.errors import InputError

CONFIGS = sorted(
  path.stem
  for path in (Path(__file__).parents[2] / 'configs').glob('*.py')
  if path.stem not in ('__init__', 'common')
)
# Files that hold a family of configs, by the names of these.
FAMILIES = {
  'compare': [f'{dataset}_{system}' for dataset in compare.STEPS for system in compare.SYSTEMS],
  'variants': list(variants.VARIANTS),
}
VARIANTS = [(name, variant) for name in CONFIGS for variant in FAMILIES.get(name, [''])]


def load(name: str, variant: str = '') -> dict:
  return importlib.import_module(f'configs.{name}').get_config(variant).to_dict()


@pytest.mark.parametrize(('name', 'variant'), VARIANTS)
def test_shipped_configs_pass(name, variant):
  schema.check(load(name, variant))
  schema.check(load(name, f'{variant},tiny' if variant else 'tiny'))


def test_the_systems_are_compared_at_the_same_settings():
  """What does not belong to one system alone is equal for all four but the number of steps."""
  for dataset in compare.STEPS:
    configs = [load('compare', f'{dataset}_{system}') for system in compare.SYSTEMS]
    for section in ('data', 'seed', 'compute_dtype', 'sampling', 'quality', 'fit'):
      assert all(config[section] == configs[0][section] for config in configs)
    for system, config in zip(compare.SYSTEMS, configs, strict=True):
      assert config['training'].pop('num_steps') == compare.STEPS[dataset][system]
      assert config['training'] == configs[0]['training']
    plain, chain, vae, diffusion = configs
    assert (plain['encoder'], plain['decoder']) == (vae['encoder'], vae['decoder'])
    assert (chain['denoiser'], chain['schedule']) == (diffusion['denoiser'], diffusion['schedule'])


@pytest.mark.parametrize(
  'variant', ['', 'tiny', 'digits', 'cifar_vae', 'digits_gan', 'digits_vae,x']
)
def test_an_unknown_comparison_is_refused(variant):
  with pytest.raises(InputError, match='unknown'):
    load('compare', variant)


@pytest.mark.parametrize('name', CONFIGS)
def test_docstrings_give_command_runtime_and_expected_numbers(name):
  text = importlib.import_module(f'configs.{name}').__doc__
  assert f'--config=configs/{name}.py' in text
  assert 'minute' in text or 'seconds' in text
  assert '+-' in text or name in FAMILIES


@pytest.mark.parametrize(('name', 'variant'), VARIANTS)
def test_a_missing_or_extra_field_is_named(name, variant):
  for field in schema.flatten(load(name, variant)):
    config = load(name, variant)
    *sections, last = field.split('.')
    section = config
    for part in sections:
      section = section[part]
    del section[last]
    with pytest.raises(InputError, match=field.split('.')[0]):
      schema.check(config)
    section[last + 'x'] = 1
    with pytest.raises(InputError):
      schema.check(config)


VALUES = st.one_of(
  st.none(),
  st.booleans(),
  st.integers(),
  st.floats(),
  st.text(max_size=5),
  st.tuples(st.integers(), st.integers()),
  st.lists(st.integers(), max_size=2),
  st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(VARIANTS), st.integers(0, 10**6), VALUES)
def test_no_value_raises_anything_but_an_input_error(shipped, place, value):
  config = load(*shipped)
  fields = list(schema.flatten(config))
  *sections, last = fields[place % len(fields)].split('.')
  section = config
  for part in sections:
    section = section[part]
  section[last] = value
  with contextlib.suppress(InputError):
    schema.check(config)
