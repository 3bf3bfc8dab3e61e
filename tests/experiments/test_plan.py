"""The cost model: operations by hand, bytes by the program, communication by arithmetic."""

import math
import re

import jax
import numpy as np
import pytest

from configs import compare, digits_vae
from experiments import build, plan
from experiments.tools import TRAIN, Tools
from vaediff import parallel
from vaediff.errors import InputError


@pytest.fixture(scope='module')
def config() -> dict:
  """A VAE whose matrix products are nearly all that it does."""
  config = digits_vae.get_config('tiny').to_dict()
  for section in ('encoder', 'decoder'):
    config[section]['widths'] = (512,)
  config['training']['batch_size'] = 256
  return config


def test_operations_are_those_of_the_matrix_products(config):
  """Forward 2 B n m for each layer, twice that backward, less the gradient of the pictures."""
  layers = [(64, 512), (512, 20), (10, 512), (512, 2 * 64)]
  forward = [2 * 256 * n * m for n, m in layers]
  by_hand = 3 * sum(forward) - forward[0]
  program = plan.analyse(config, 256)
  # The rest: the likelihood of 64 pixels, random numbers, Adam.
  assert by_hand < program.operations < 1.25 * by_hand
  # And they are those of one step, however many a call has.
  more = config | {'training': config['training'] | {'steps_per_dispatch': 20}}
  assert plan.analyse(more, 256).operations == program.operations


def test_another_device_has_convolutions_of_its_own():
  """Those of this CPU take fewer multiplications."""
  config = compare.get_config('digits_diffusion,tiny').to_dict()
  config['denoiser']['widths'] = (64,)
  here, there = (plan.analyse(config, 4, kind) for kind in (plan.HERE, 'tpu_v4'))
  assert here.num_params == there.num_params
  if jax.default_backend() == 'cpu':
    assert here.operations < 0.8 * there.operations


def test_bytes_in_memory_are_those_of_the_arrays(config):
  program = plan.analyse(config, 256)
  num_params = sum(n * m + m for n, m in [(64, 512), (512, 20), (10, 512), (512, 128)])
  assert program.num_params == num_params
  assert program.params == program.average == 4 * num_params
  # Adam: two moments, and its counts.
  assert 8 * num_params <= program.optimizer <= 8 * num_params + 32
  assert program.data == 1500 * (64 + 4)
  # At least the hidden layer's activations, for the way back.
  assert program.temporary > 4 * 256 * 512


def test_all_reduced_bytes_are_those_of_the_compiled_program(config):
  """All-reduces in the program of two devices, with the sizes of what they sum."""
  tools = Tools(build.build(config), config, None, jax.devices()[:2])
  split = tools.experiment.dataset.train
  arguments = parallel.replicate((tools.initial_state(), split.x, split.label), tools.devices)
  indices = np.zeros((2, 1, 128), np.int32)
  text = (
    tools.dispatch.lower(arguments[0], np.int32(0), tools.key(TRAIN), *arguments[1:], indices)
    .compile()
    .as_text()
  )
  results = [
    line.partition(' all-reduce(')[0] for line in text.splitlines() if ' all-reduce(' in line
  ]
  sizes = [
    math.prod(int(n) for n in shape.split(',') if n)
    for result in results
    for shape in re.findall(r'f32\[([\d,]*)\]', result)
  ]
  assert 4 * sum(sizes) == plan.analyse(config, 128).all_reduced


def test_the_ring_by_arithmetic():
  """Two chips exchange halves twice; on two levels the second sums what is left of the first."""
  level = plan.Level(8, 100.0, 0.5)
  assert plan.ring_seconds(1000, 1, [level]) == 0
  assert plan.ring_seconds(1000, 2, [level]) == 2 * (5 + 0.5)
  outer = plan.Level(4, 10.0, 1.0)
  expected = 2 * 7 * (1000 / 8 / 100 + 0.5) + 2 * 3 * (1000 / 8 / 4 / 10 + 1)
  assert plan.ring_seconds(1000, 32, [level, outer]) == pytest.approx(expected)


def test_an_estimate_adds_up(config):
  one, eight = (plan.estimate(config, 'tpu_v4', chips) for chips in (1, 8))
  assert one.compute == pytest.approx(one.program.operations / 275e12)
  assert one.memory_access == pytest.approx(one.program.accessed / 1.2e12)
  assert one.step == max(one.compute, one.memory_access)
  assert one.hours == pytest.approx(20 * one.step / 3600)
  assert eight.program == plan.analyse(config, 32)
  assert (
    eight.step
    > eight.all_reduce
    == plan.ring_seconds(eight.program.all_reduced, 8, plan.DEVICES['tpu_v4'].levels)
  )
  weak = plan.rows(config, 'tpu_v4', [1, 8, 1024], 'weak')
  assert [row['chips'] for row in weak] == [1, 8, 1024]
  assert weak[0]['efficiency'] == 1 > weak[1]['efficiency'] > weak[2]['efficiency'] > 0
  strong = plan.rows(config, 'tpu_v4', [1, 7, 8], 'strong')
  assert [row['chips'] for row in strong] == [1, 8]
  assert strong[1]['efficiency'] == pytest.approx(one.step / (8 * eight.step))


def test_wrong_input_is_refused(config):
  with pytest.raises(InputError, match='one of here, tpu_v4'):
    plan.estimate(config, 'tpu_v1', 1)
  with pytest.raises(InputError, match='not divisible by 7'):
    plan.estimate(config, 'h100', 7)
  with pytest.raises(InputError, match='8 devices are here'):
    plan.estimate(config, 'here', 16)


def test_chips_among_which_the_batch_cannot_be_divided_are_named(capsys):
  arguments = ['--config=configs/digits_vae.py:tiny', '--device_kind=tpu_v4', '--chips=1,7,8']
  assert plan.main(['plan', *arguments]) == 0
  *_, last = capsys.readouterr().out.splitlines()
  assert last.startswith('not on 7 chips: a batch of 32 cannot be divided')
