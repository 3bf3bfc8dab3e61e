"""Every shipped config passes the schema, and whatever does not pass raises InputError alone."""

import contextlib
import importlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import schema
from vaediff.errors import InputError

CONFIGS = sorted(
  path.stem
  for path in (Path(__file__).parents[2] / 'configs').glob('*.py')
  if path.stem not in ('__init__', 'common')
)


def load(name: str, variant: str = '') -> dict:
  return importlib.import_module(f'configs.{name}').get_config(variant).to_dict()


@pytest.mark.parametrize('name', CONFIGS)
@pytest.mark.parametrize('variant', ['', 'tiny'])
def test_shipped_configs_pass(name, variant):
  schema.check(load(name, variant))


@pytest.mark.parametrize('name', CONFIGS)
def test_docstrings_give_command_runtime_and_expected_numbers(name):
  text = importlib.import_module(f'configs.{name}').__doc__
  assert f'--config=configs/{name}.py' in text
  assert 'minutes' in text or 'seconds' in text
  assert '+-' in text


@pytest.mark.parametrize('name', CONFIGS)
def test_a_missing_or_extra_field_is_named(name):
  for field in schema.flatten(load(name)):
    config = load(name)
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
@given(st.sampled_from(CONFIGS), st.integers(0, 10**6), VALUES)
def test_no_value_raises_anything_but_an_input_error(name, place, value):
  config = load(name)
  fields = list(schema.flatten(config))
  *sections, last = fields[place % len(fields)].split('.')
  section = config
  for part in sections:
    section = section[part]
  section[last] = value
  with contextlib.suppress(InputError):
    schema.check(config)
