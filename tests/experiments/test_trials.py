"""Sweep files: what trials their axes make, and what is refused, in one line."""

import math
import re

import numpy as np
import pytest

from configs import digits_vae, variants
from configs.sweeps import beta, pod
from experiments import trials, workdir
from vaediff.errors import InputError

BASE = digits_vae.get_config('tiny')


def sweep(**fields) -> trials.Sweep:
  return trials.check({'config': BASE, 'collect': ('metrics.nll_bound.value',), **fields})


def settings(**fields) -> list[dict]:
  return list(trials.settings(sweep(**fields)))


def test_a_grid_has_every_combination():
  grid = {'kl_weight.beta': (1.0, 2.0), 'method.latent_dim': (3, 4, 5)}
  found = settings(grid=grid)
  assert found == [{'kl_weight.beta': b, 'method.latent_dim': d} for b in (1, 2) for d in (3, 4, 5)]


def test_what_is_zipped_changes_together():
  found = settings(zip={'kl_weight.beta': (1.0, 2.0), 'method.latent_dim': (3, 4)})
  assert found == [
    {'kl_weight.beta': 1.0, 'method.latent_dim': 3},
    {'kl_weight.beta': 2.0, 'method.latent_dim': 4},
  ]


def test_axes_multiply_and_each_setting_has_every_seed():
  expanded = trials.expand(
    sweep(
      grid={'kl_weight.beta': (1.0, 2.0)},
      zip={'method.latent_dim': (3, 4, 5)},
      random={'optimizer.learning_rate': ('log_uniform', 1e-4, 1e-2)},
      num_random=4,
      seeds=(0, 7),
    )
  )
  assert len({trial.name for trial in expanded}) == len(expanded) == 2 * 3 * 4 * 2
  assert {trial.config['seed'] for trial in expanded} == {0, 7}
  for trial in expanded:
    assert workdir.config_hash(trial.config).startswith(trial.name)
    for field, value in trial.setting.items():
      section, name = field.split('.')
      assert trial.config[section][name] == value


def test_random_draws_have_their_distribution_and_do_not_depend_on_each_other():
  low, high = 1e-4, 1e-2
  axes = {
    'optimizer.learning_rate': ('log_uniform', low, high),
    'kl_weight.beta': ('uniform', 2.0, 6.0),
  }
  found = settings(random=axes, num_random=400)
  rate = np.log([row['optimizer.learning_rate'] for row in found])
  weight = np.array([row['kl_weight.beta'] for row in found])
  # The largest distance of 400 uniform draws' distribution function is above 0.1 with probability
  # 2 exp(-2 400 0.1^2) = 0.0007 (Massart 1990).
  for values, first, last in ((rate, math.log(low), math.log(high)), (weight, 2.0, 6.0)):
    uniform = np.sort((values - first) / (last - first))
    assert uniform[0] >= 0
    assert uniform[-1] < 1
    assert np.abs(uniform - (np.arange(400) + 0.5) / 400).max() < 0.1
  assert abs(np.corrcoef(rate, weight)[0, 1]) < 0.2
  # More draws, another axis: those that were there stay.
  few = settings(random={'kl_weight.beta': axes['kl_weight.beta']}, num_random=3)
  assert [row['kl_weight.beta'] for row in few] == weight[:3].tolist()
  other = settings(random=axes, random_seed=1)
  assert other[0]['kl_weight.beta'] != weight[0]


def test_a_whole_number_is_the_same_trial_as_the_float():
  one, same = (
    trials.expand(sweep(grid={'kl_weight.beta': (value,)}))[0].name for value in (2, 2.0)
  )
  assert one == same


def test_a_section_can_be_an_axis():
  conv = {'name': 'conv', 'widths': (8, 16), 'num_blocks': 1}
  (trial,) = trials.expand(sweep(grid={'encoder': (conv,)}))
  assert trial.config['encoder'] == conv
  assert trial.config['decoder'] == BASE.decoder.to_dict()


def test_the_base_is_left_as_it_is():
  before = BASE.to_dict()
  trials.expand(sweep(grid={'kl_weight.beta': (3.0,)}, seeds=(5,)))
  assert BASE.to_dict() == before


@pytest.mark.parametrize('name', ['vae', 'diffusion', 'denoising_chain'])
def test_any_config_can_be_swept(name):
  config = variants.get_config(f'{name},tiny')
  found = trials.check({'config': config, 'seeds': range(3), 'collect': ('cost.num_params',)})
  assert len(trials.expand(found)) == 3


def test_the_shipped_sweeps():
  assert len(trials.expand(trials.check(beta.get_sweep()))) == 20
  expanded = trials.expand(trials.check(pod.get_sweep()))
  assert len(expanded) == 256
  for name in ('beta', 'pod'):
    assert trials.load(f'configs/sweeps/{name}.py').collect


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'grids': {}}, 'grids is not a field of a sweep; did you mean grid?'),
    ({'config': {}}, 'config is {}; it is a ConfigDict'),
    ({'grid': ('kl_weight.beta', 1.0)}, "grid is ('kl_weight.beta', 1.0); it is a dict"),
    ({'grid': {'kl_weight.beta': ()}}, 'kl_weight.beta of grid is (); it is a tuple of one'),
    ({'grid': {'kl_weight.beta': 1.0}}, 'kl_weight.beta of grid is 1.0; it is a tuple of one'),
    ({'grid': {'kl_weight.bta': (1.0,)}}, 'did you mean kl_weight.beta?'),
    ({'grid': {'kl_weight.beta.x': (1.0,)}}, 'kl_weight.beta.x is not a field of the config'),
    (
      {'grid': {'kl_weight.beta': ('1',)}},
      "the trial kl_weight.beta = 1 with seed 0: kl_weight.beta is '1'; it is a finite number",
    ),
    ({'grid': {'kl_weight.beta': (-1.0,)}}, 'kl_weight.beta is -1.0; it is a finite number in [0'),
    ({'grid': {'encoder': ({'name': 'mpl'},)}}, "encoder.name is 'mpl'; it is one of mlp, conv"),
    ({'grid': {'seed': (1,)}}, 'the seeds of a sweep are its field seeds'),
    ({'grid': {'kl_weight.beta': (1, 1.0)}}, 'kl_weight.beta = 1 with seed 0 is a trial twice'),
    ({'seeds': (0, 0)}, 'as it is with seed 0 is a trial twice'),
    ({'seeds': (0.5,)}, 'seed is 0.5; it is an integer'),
    ({'seeds': 4}, 'seeds of the sweep is 4; it is a tuple'),
    (
      {'grid': {'kl_weight.beta': (1.0,)}, 'zip': {'kl_weight.beta': (2.0,)}},
      'kl_weight.beta is on two axes',
    ),
    (
      {'zip': {'kl_weight.beta': (1.0, 2.0), 'method.latent_dim': (3,)}},
      "different lengths, {'kl_weight.beta': 2, 'method.latent_dim': 1}",
    ),
    ({'random': {'kl_weight.beta': ('normal', 0, 1)}}, 'it is (one of uniform, log_uniform, low'),
    ({'random': {'kl_weight.beta': ('uniform', 1, 0)}}, 'with low < high'),
    ({'random': {'kl_weight.beta': ('log_uniform', 0, 1)}}, 'log_uniform takes low > 0'),
    ({'num_random': 3}, 'num_random is 3, and random is empty'),
    ({'num_random': 0}, 'num_random is 0; it is an integer of at least 1'),
    ({'collect': ()}, 'collect of the sweep is ()'),
    ({'collect': (3,)}, 'collect is 3; it is a string'),
    ({'best': 'least'}, "best is 'least'; it is one of min, max"),
    ({'resources': {'gpu': 1}}, 'resources.gpu is not a resource of a trial; did you mean gpus?'),
    ({'resources': {'cpus': 0}}, 'resources.cpus is 0; it is an integer of at least 1'),
    ({'resources': {'gpus': 1, 'tpus': 1}}, 'a trial has one kind'),
  ],
)
def test_what_is_wrong_with_a_sweep_is_said_in_one_line(fields, message):
  with pytest.raises(InputError, match=re.escape(message)) as error:
    trials.expand(sweep(**fields))
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('missing', ['config', 'collect'])
def test_what_a_sweep_has_to_have(missing):
  fields = {'config': BASE, 'collect': ('a',)}
  del fields[missing]
  with pytest.raises(InputError, match=f'{missing} is missing from the sweep'):
    trials.check(fields)


@pytest.mark.parametrize(
  'text', [None, '', 'get_sweep = 3', 'def get_sweep():\n  raise KeyError(3)', 'raise SystemExit']
)
def test_a_file_that_gives_no_sweep_is_named(text, tmp_path):
  path = tmp_path / 'sweep.py'
  if text is not None:
    path.write_text(text)
  with pytest.raises(InputError, match=r'sweep\.py gives no sweep'):
    trials.load(str(path))
