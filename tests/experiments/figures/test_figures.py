"""Every figure: what it computes from small runs, the file between the halves, what it draws."""

import itertools
import json

import jax
import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from configs import paper as runs
from experiments import claims, workdir
from experiments.figures import FIGURES, bound_terms, figure, refinement, samplers, small_steps
from experiments.figures.figure import Study
from vaediff.errors import InputError

# The runs are made once, by one of the processes that share the tests.
pytestmark = pytest.mark.xdist_group('figures')

NUM_SEEDS = 2
TRAINED = (
  'classifier',
  'autoencoder_2d',
  'vae_2d',
  'vae_full',
  'denoising_chain',
  'diffusion',
  'diffusion_interpolated',
)


def stands_for(name: str) -> str:
  """The trained run that a figure gets in the place of another."""
  if name in TRAINED:
    return name
  return f'{name.partition("_")[0]}_2d'


class SmallStudy(Study):
  def run(self, name):
    return super().run(stands_for(name))


@pytest.fixture(scope='module')
def study(tmp_path_factory, succeed):
  folder, configs = tmp_path_factory.mktemp('runs'), {}
  for name in TRAINED:
    config = runs.get_config(f'digits_{name},tiny').unlock()
    flags = [f'--config=configs/paper.py:digits_{name},tiny']
    if name != 'classifier':
      config.seeds = NUM_SEEDS
      flags.append(f'--config.seeds={NUM_SEEDS}')
    configs[name] = config.to_dict()
    succeed(*flags, f'--workdir={workdir.named(folder, f"digits_{name}", configs[name])}')
  devices = jax.devices()[:1]
  return SmallStudy('digits', folder, configs | {'vae': configs['vae_2d']}, devices)


@pytest.fixture(scope='module')
def small():
  """Fewer samples and steps, as many as the tiny schedule has."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(figure, 'NUM_SAMPLES', {'digits': 24})
    patch.setattr(figure, 'NUM_CHAINS', {'digits': 24})
    patch.setattr(samplers, 'FEW_STEPS', (5,))
    patch.setattr(bound_terms, 'NUM_STEPS', (5, 20))
    patch.setattr(bound_terms, 'NUM_BINS', 4)
    patch.setattr(small_steps, 'SCHEDULES', (5, 20))
    patch.setattr(small_steps, 'CHAIN_STEPS', np.array([2, 4, 8]))
    patch.setattr(refinement, 'WAYS', {'mean': 'by the mean'})
    yield


@pytest.fixture(scope='module')
def computed(study, small):
  """computed(name): the arrays of a figure, computed once."""
  found = {}

  def compute(name):
    if name not in found:
      found[name] = FIGURES[name].compute(study)
    return found[name]

  return compute


@pytest.mark.parametrize('name', FIGURES)
def test_a_figure_is_drawn_from_its_file_alone(name, computed, tmp_path):
  path, picture = tmp_path / 'figure.npz', tmp_path / 'figure.png'
  figure.save(path, computed(name), {'figure': name})
  arrays, provenance = figure.load(path)
  assert provenance == {'figure': name}
  assert arrays
  assert all(np.isfinite(a).all() for n, a in arrays.items() if n != 'log_snr')
  drawn = FIGURES[name].draw(arrays)
  drawn.savefig(picture)
  plt.close(drawn)
  with Image.open(picture) as opened:
    assert len(opened.convert('RGB').getcolors(maxcolors=2**24)) > 10


def test_a_moving_figure_moves(computed):
  module = FIGURES['f13_trajectories']
  frames = module.animate(computed('f13_trajectories'))
  assert len(frames) == 21  # the steps of the tiny schedule, and the start
  assert {(frame.ndim, frame.shape[-1], frame.dtype.name) for frame in frames} == {(3, 3, 'uint8')}
  assert all((a != b).any() for a, b in itertools.pairwise(frames))
  assert module.FRAME_MILLISECONDS > 0


@pytest.mark.parametrize('name', FIGURES)
def test_a_figure_says_what_it_shows(name):
  module = FIGURES[name]
  assert module.TITLE
  assert module.CAPTION.endswith('.')
  assert set(module.RUNS) <= set(runs.RUNS)
  assert name.startswith('f')
  assert module.__doc__.startswith(f'F{int(name[1:3])}: ')


@pytest.mark.parametrize('name', ['f03_variational_autoencoder', 'f04_divergence', 'f11_feedback'])
def test_the_same_numbers_make_the_same_file(name, computed, study, tmp_path):
  first, second = tmp_path / 'first.npz', tmp_path / 'second.npz'
  figure.save(first, computed(name), {})
  figure.save(second, FIGURES[name].compute(study), {})
  assert first.read_bytes() == second.read_bytes()


def test_every_claim_has_evidence_in_its_figure(computed):
  names = {claim.figure for claim in claims.CLAIMS}
  judged = claims.judge({name: {'digits': computed(name)} for name in names})
  assert len(judged) == len(claims.CLAIMS)
  for entry in judged:
    assert entry['evidence']
    assert all(np.isfinite((e['low'], e['high'])).all() for e in entry['evidence'])
  json.dumps(judged)


def test_a_push_is_followed_from_where_it_was(computed):
  arrays = computed('f11_feedback')
  for scale in ('0', '1'):
    np.testing.assert_allclose(arrays[f'distance_{scale}'][:, 0], 1.0, rtol=1e-6)
  # The same means, summed in another order.
  np.testing.assert_allclose(arrays['kept'][:, 0], arrays['distance_0'][:, -1], rtol=1e-6)
  # The network is not the same for both: nor is what is left.
  assert (arrays['distance_0'][:, 1:] != arrays['distance_1'][:, 1:]).any()


def test_a_bound_of_some_levels_is_evaluated_on_schedules_of_fewer(study):
  run = study.run('diffusion').changed(evaluation={'num_times': 10})
  for T, expected in ((5, 0), (10, 0), (12, 10)):
    changed = small_steps.on_schedule(run, T)
    assert changed.tools.config['evaluation']['num_times'] == expected
    assert np.isfinite(changed.scores()['nll_bound']).all()


def test_a_run_that_is_not_finished_is_named(tmp_path):
  config = runs.get_config('digits_vae,tiny').to_dict()
  with pytest.raises(InputError, match=r'digits_vae-[0-9a-f]{8} does not hold the finished run'):
    Study('digits', tmp_path, {'vae': config}).run('vae')


@pytest.mark.parametrize('content', [b'', b'no zip file', None])
def test_a_file_that_is_no_figure_is_refused(content, tmp_path):
  path = tmp_path / 'f.npz'
  if content is None:
    np.savez(path, x=np.zeros(3))
  else:
    path.write_bytes(content)
  with pytest.raises(InputError, match='cannot be read as a figure'):
    figure.load(path)
