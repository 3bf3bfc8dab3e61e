"""The house rules that a machine can check: which module may import which."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the bottom up: a module imports only what stands before it. Modules of one line are peers
# that do not import each other.
LAYERS = [
  ['vaediff.errors', 'vaediff.random', 'vaediff.quadrature', 'vaediff.muon'],
  ['vaediff.gaussian'],
  ['vaediff.uniform'],
  ['vaediff.likelihoods', 'vaediff.schedules', 'vaediff.forward_process', 'vaediff.latents'],
  ['vaediff.bounds', 'vaediff.analytic', 'vaediff.divergence'],
  ['vaediff.annealed', 'vaediff.probability_flow'],
  ['vaediff.reverse_process', 'vaediff.sampling', 'vaediff.time_sampling'],
  ['vaediff.networks'],
  ['vaediff.networks.*'],
  ['vaediff.methods.base'],
  ['vaediff.methods.coding'],
  ['vaediff.methods.*', 'vaediff.methods'],
  ['vaediff.datasets.*', 'vaediff.datasets'],
  ['vaediff.data'],
  ['vaediff.parallel'],
  ['vaediff.evaluation.*', 'vaediff.evaluation', 'vaediff.training', 'vaediff.checkpoints'],
  ['vaediff.reporting', 'vaediff'],
  ['experiments.*', 'experiments', 'configs.*', 'configs'],
  ['configs.sweeps.*', 'configs.sweeps'],
  ['experiments.figures.style', 'experiments.figures.figure'],
  ['experiments.figures.*'],
  ['experiments.figures'],
  ['experiments.claims'],
  ['experiments.published'],
  ['experiments.page'],
  ['experiments.publishing'],
  ['experiments.paper', 'experiments.gallery'],
]


def module_name(path: Path) -> str:
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def imports(path: Path) -> set[str]:
  """Modules that a file imports, wherever in it; `from a import b` is a.b if that is a module."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: relative import'
      for alias in node.names:
        inner = ROOT / Path(*node.module.split('.')) / alias.name
        is_module = inner.is_dir() or inner.with_suffix('.py').exists()
        found.add(f'{node.module}.{alias.name}' if is_module else node.module)
  return found


def layer(name: str) -> int:
  for i, names in enumerate(LAYERS):
    if name in names:
      return i
  for i, names in enumerate(LAYERS):
    if f'{name.rpartition(".")[0]}.*' in names:
      return i
  raise AssertionError(f'{name} has no place in the house: give it one in LAYERS')


FILES = sorted(
  p for top in ('vaediff', 'experiments', 'configs') for p in (ROOT / top).rglob('*.py')
)


@pytest.mark.parametrize('path', FILES, ids=module_name)
def test_imports_point_down(path):
  own = layer(module_name(path))
  for name in imports(path):
    if name.split('.')[0] in ('vaediff', 'experiments', 'configs'):
      same_package = name.rpartition('.')[0] == module_name(path).rpartition('.')[0]
      assert layer(name) < own or (layer(name) == own and same_package), f'imports {name}'


@pytest.mark.parametrize(
  'path', sorted((ROOT / 'vaediff' / 'methods').glob('*.py')), ids=module_name
)
def test_methods_know_no_concrete_network(path):
  assert not any(name.startswith('vaediff.networks.') for name in imports(path))


def names_called(path: Path) -> set[str]:
  """The names of what a file calls: 'f' of f(x), 'a.f' of a.f(x)."""
  nodes = ast.walk(ast.parse(path.read_text()))
  return {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}


@pytest.mark.parametrize('path', FILES, ids=module_name)
def test_nothing_that_is_read_is_executed(path):
  """No pickle is loaded, in whatever wrapping, and no text is run."""
  roots = {name.split('.')[0] for name in imports(path)}
  assert not roots & {'pickle', 'cloudpickle', 'dill', 'joblib', 'marshal', 'shelve', 'torch'}
  called = names_called(path)
  assert not called & {'eval', 'exec', 'compile', '__import__', 'torch.load', 'read_pickle'}
  keywords = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.keyword)]
  for keyword in keywords:
    if keyword.arg == 'allow_pickle':
      assert isinstance(keyword.value, ast.Constant)
      assert keyword.value.value is False


def test_execution_is_noticed(tmp_path):
  path = tmp_path / 'bad.py'
  for code in (
    'import pickle',
    'from joblib import load',
    'eval("1")',
    'import numpy as np\nnp.load("x", allow_pickle=True)',
    'import numpy as np\nnp.load("x", allow_pickle=flag)',
  ):
    path.write_text(code)
    with pytest.raises(AssertionError):
      test_nothing_that_is_read_is_executed(path)


@pytest.mark.parametrize('path', FILES, ids=module_name)
def test_each_concern_has_one_owner(path):
  name, text = module_name(path), path.read_text()
  owners = {
    'flax': 'vaediff.networks',
    'jax.pmap': 'vaediff.parallel',
    'jax.sharding': 'vaediff.parallel',
    'orbax': 'vaediff.checkpoints',
    'tensorboardX': 'vaediff.reporting',
  }
  for word, owner in owners.items():
    if f'import {word}' in text or f'from {word}' in text or (word == 'jax.pmap' and word in text):
      assert name.startswith(owner), f'{word} belongs to {owner}'
  if name.startswith('vaediff'):
    assert 'ml_collections' not in text, 'the library reads no ConfigDict'
