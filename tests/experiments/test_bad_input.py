"""Wrong input of every kind: exit status 2, one line that helps, and nothing left behind."""

import json
import shutil

import numpy as np
import pytest
from sklearn import datasets

from vaediff.datasets import digits

VAE = 'configs/digits_vae.py:tiny'
VAE_FULL = 'configs/digits_vae_full.py:tiny'
AUTOENCODER = 'configs/digits_autoencoder.py:tiny'
CHAIN = 'configs/digits_denoising_chain.py:tiny'
DIFFUSION = 'configs/digits_diffusion.py:tiny'
CLASSIFIER = 'configs/digits_classifier.py:tiny'
CONV = 'configs/variants.py:vae_conv,tiny'
WARMUP = 'configs/variants.py:vae_warmup,tiny'
CYCLICAL = 'configs/variants.py:vae_cyclical,tiny'
MIXTURE = 'configs/variants.py:vae_mixture,tiny'
FIXED_SCALE = 'configs/variants.py:vae_logistic_fixed_scale,tiny'
BINARY = 'configs/variants.py:vae_bernoulli,tiny'
ANNEALED = 'configs/variants.py:vae_annealed,tiny'
LINEAR = 'configs/variants.py:diffusion_linear,tiny'
LEARNED = 'configs/variants.py:diffusion_learned_schedule,tiny'
CONDITIONAL = 'configs/variants.py:diffusion_conditional,tiny'
TRANSFORMER = 'configs/variants.py:diffusion_transformer,tiny'
CONTINUOUS = 'configs/variants.py:diffusion_continuous,tiny'
HEUN = 'configs/variants.py:diffusion_heun,tiny'
OPTIMAL = 'configs/variants.py:diffusion_optimal,tiny'


@pytest.fixture
def refuse_at(refuse):
  """refuse_at(workdir, config, *arguments): the line of the refusal, which changes no file."""

  def refuse_at(workdir, config, *arguments, **options):
    before = contents(workdir)
    line = refuse(f'--config={config}', f'--workdir={workdir}', *arguments, **options)
    assert contents(workdir) == before
    return line

  return refuse_at


def contents(folder):
  """What is in a folder, by path: None for folders, the bytes of files. Of a file its own."""
  return {
    p: p.read_bytes() if p.is_file() else None for p in (folder, *folder.rglob('*')) if p.exists()
  }


# name: (config, overrides without `--config.`, what the line says).
FIELDS = {
  # Types, ranges and names.
  'unknown field': (VAE, 'training.batchsize=3', 'did you mean training.batch_size?'),
  'unknown section': (VAE, 'trainin.batch_size=3', 'did you mean training.batch_size?'),
  'field below a field': (VAE, 'seed.x=3', 'seed.x is not a field of this config'),
  'section as a field': (VAE, 'training=3', 'training is not a field of this config'),
  'field of another method': (AUTOENCODER, 'kl_weight.beta=1.0', 'kl_weight.beta is not a field'),
  'field of another network': (VAE, 'encoder.num_blocks=1', 'encoder.num_blocks is not a field'),
  'no number': (VAE, 'training.batch_size=many', 'training.batch_size=many'),
  'nothing': (VAE, 'training.batch_size=', 'training.batch_size='),
  'None': (VAE, 'seed=None', 'seed=None'),
  'float for an integer': (VAE, 'training.batch_size=1.5', 'training.batch_size=1.5'),
  'no truth value': (VAE, 'data.binarize=maybe', 'data.binarize=maybe'),
  'no tuple of integers': (
    VAE, "encoder.widths=(8,'a')", "encoder.widths is (8, 'a'); it is a tuple",
  ),
  'width of zero': (VAE, 'decoder.widths=(8,0)', 'decoder.widths is (8, 0)'),
  'no widths': (CONV, 'encoder.widths=()', 'encoder.widths is (); it is a tuple'),
  'zero batch': (VAE, 'training.batch_size=0', 'an integer of at least 1'),
  'negative batch': (AUTOENCODER, 'evaluation.batch_size=-8', 'evaluation.batch_size is -8'),
  'seed past 32 bits': (VAE, 'seed=4294967296', 'below 4294967296'),
  'negative seed': (CLASSIFIER, 'seed=-1', 'seed is -1; it is an integer of at least 0'),
  'steps past 32 bits': (CHAIN, 'training.num_steps=10000000000', 'below 2147483648'),
  'negative rate': (VAE, 'optimizer.learning_rate=-1.0', 'a finite number in (0, inf)'),
  'rate that is no number': (VAE, 'optimizer.learning_rate=nan', 'a finite number in (0, inf)'),
  'rate past float32': (VAE, 'optimizer.learning_rate=1e40', 'learning_rate is 1e+40'),
  'eps that is zero in float32': (VAE, 'optimizer.eps=1e-50', 'optimizer.eps is 1e-50'),
  'b1 that is 1 in float32': (VAE, 'optimizer.b1=0.9999999999', 'optimizer.b1 is 0.9999999999'),
  'average of nothing': (DIFFUSION, 'training.ema_decay=1.0', 'in [0, 1)'),
  'unknown decay': (VAE, 'optimizer.decay=step', "decay is 'step'; it is one of cosine, constant"),
  'unknown dtype': (VAE, 'compute_dtype=float16', 'one of float32, bfloat16'),
  'unknown method': (VAE, 'method.name=gan', "method.name is 'gan'; it is one of"),
  'unknown network': (VAE, 'encoder.name=rnn', "encoder.name is 'rnn'"),
  'unknown activation': (VAE, 'encoder.activation=elu', "encoder.activation is 'elu'"),
  'unknown likelihood': (VAE, 'likelihood.name=cauchy', "likelihood.name is 'cauchy'"),
  'unknown prior': (VAE, 'method.prior=laplace', 'one of normal, uniform'),
  'unknown objective': (VAE, 'method.objective=mse', 'one of elbo, iwae'),
  'unknown codes': (AUTOENCODER, 'sampler.codes=posterior', 'one of prior, normal, mixture'),
  'unknown chain': (CHAIN, 'method.networks=both', 'one of shared, separate'),
  'unknown prediction': (DIFFUSION, 'method.prediction=score', "prediction is 'score'"),
  'unknown sampler': (DIFFUSION, 'sampler.name=euler', "sampler.name is 'euler'"),
  'unknown schedule': (DIFFUSION, 'schedule.name=sigmoid', "schedule.name is 'sigmoid'"),
  'learned schedule of a chain': (CHAIN, 'schedule.name=learned', "schedule.name is 'learned'"),
  'unknown split': (VAE, 'evaluation.split=train', 'one of test, validation'),
  'codes of no size': (VAE_FULL, 'method.latent_dim=0', 'method.latent_dim is 0'),
  'negative free bits': (VAE, 'method.free_bits=-0.5', 'method.free_bits is -0.5'),
  'negative weight': (WARMUP, 'kl_weight.beta=-1.0', 'kl_weight.beta is -1.0'),
  'scale of zero': (FIXED_SCALE, 'likelihood.fixed_scale=0.0', 'likelihood.fixed_scale is 0.0'),
  'no temperatures': (ANNEALED, 'evaluation.num_temperatures=0', 'num_temperatures is 0'),
  'no steps': (DIFFUSION, 'schedule.T=0', 'schedule.T is 0; it is an integer of at least 1'),
  'too many steps': (CHAIN, 'schedule.T=1000000000', 'below 1000001'),
  'variance of one': (LINEAR, 'schedule.beta_last=1.0', 'schedule.beta_last is 1.0'),
  'endless log-SNR': (DIFFUSION, 'schedule.first=1e4', 'schedule.first is 10000.0'),
  'probability above 1': (CONDITIONAL, 'method.label_dropout=1.5', 'a number in [0, 1]'),
  'eta above 1': (DIFFUSION, 'sampler.eta=2.0', 'a number in [0, 1]'),
  'negative guidance': (CONDITIONAL, 'sampler.guidance=-1.0', 'sampler.guidance is -1.0'),
  'too fine a sine': (DIFFUSION, 'denoiser.fourier_exponents=(3,200)', 'as in (3, 4)'),
  'too few samples to measure': (VAE, 'quality.num_samples=10', 'an integer of at least 12'),
  'no features': (CLASSIFIER, 'method.num_features=0', 'method.num_features is 0'),
  # Contradictions.
  'steps between dispatches': (VAE, 'training.num_steps=25', '20 or 30'),
  'checkpoint within a dispatch': (CHAIN, 'training.checkpoint_every=7', 'as 10 are'),
  'evaluation within a dispatch': (CLASSIFIER, 'evaluation.every=15', '10 or 20'),
  'warm-up too long': (VAE, 'optimizer.warmup_steps=20', 'below training.num_steps = 20'),
  'likelihood for more levels': (VAE, 'data.binarize=True', 'for data of 2 levels'),
  'likelihood for two levels': (BINARY, 'data.binarize=False', 'bernoulli is for two levels'),
  'prior against posterior': (
    VAE, 'method.prior=uniform method.posterior=full',
    'uniform does not go with method.posterior full',
  ),
  'posterior against prior': (VAE, 'method.posterior=box', 'the pairs are normal with diagonal'),
  'objective against weight': (
    VAE, 'method.objective=iwae kl_weight.beta=2.0', 'has no KL term to weight',
  ),
  'objective against free bits': (
    VAE, 'method.objective=iwae method.free_bits=0.5', 'leave kl_weight 1 and free_bits 0',
  ),
  'ramp longer than its period': (CYCLICAL, 'kl_weight.ramp=1.5', 'ramp in (0, 1]'),
  'more components than codes': (
    MIXTURE, 'fit.num_examples=5', 'sampler.codes mixture takes at least 10',
  ),
  'Gaussian of one code': (
    AUTOENCODER, 'sampler.codes=normal fit.num_examples=1', 'sampler.codes normal takes at least 2',
  ),
  'more halvings than pixels': (
    CONV, 'encoder.widths=(4,4,4,4)', 'encoder: pictures of 8x8 are too small to be divided by 16',
  ),
  'more doublings than pixels': (CONV, 'decoder.widths=(4,4,4,4)', 'decoder: pictures of 8x8'),
  'more levels than pixels': (
    DIFFUSION, 'denoiser.widths=(4,4,4,4,4)', 'denoiser: pictures of 8x8',
  ),
  'patches beyond the picture': (
    CHAIN, 'denoiser.patch_size=16', 'fewer widths or smaller patches',
  ),
  'tokens beyond the picture': (TRANSFORMER, 'denoiser.patch_size=16', 'small to be divided by 16'),
  'heads against width': (
    TRANSFORMER, 'denoiser.num_heads=3', 'width 16 is not a multiple of 3; use 18',
  ),
  'width that is not in fours': (
    TRANSFORMER, 'denoiser.width=18', 'width 18 is not a multiple of 4; use 20',
  ),
  'shift out of the picture': (CLASSIFIER, 'method.max_shift=8', 'it is below 8'),
  'more times than levels': (DIFFUSION, 'evaluation.num_times=20', 'at most schedule.T - 1 = 19'),
  'more steps than levels': (HEUN, 'sampler.num_steps=21', 'at most schedule.T = 20'),
  'guidance without labels': (DIFFUSION, 'sampler.guidance=2.0', 'method.conditional is False'),
  'guidance without dropout': (
    CONDITIONAL, 'method.label_dropout=0.0', 'method.label_dropout is 0;',
  ),
  'dropout without labels': (DIFFUSION, 'method.label_dropout=0.1', 'there are no labels to drop'),
  'eta without DDIM': (DIFFUSION, 'sampler.eta=0.5', 'which ancestral does not take; use 0.0'),
  'noise without ancestry': (HEUN, 'sampler.noise_scale=0.5', 'which heun does not take; use 1.0'),
  'hybrid with a fixed variance': (DIFFUSION, 'method.loss=hybrid', 'trains a learned variance'),
  'learned schedule, simple loss': (LEARNED, 'method.loss=simple', "goes with the loss 'bound'"),
  'learned schedule, respaced': (LEARNED, 'sampler.spacing=log_snr', "and the spacing 'time'"),
  'learned schedule of one step': (LEARNED, 'schedule.T=1', 'an integer of at least 2'),
  'rising log-SNR': (DIFFUSION, 'schedule.last=9.0', 'has to fall from first to last'),
  'log-SNR too flat': (DIFFUSION, 'schedule.last=7.4999999', 'in float32; it has to fall'),
  'betas too large': (
    LINEAR, 'schedule.beta_first=0.999 schedule.beta_last=0.999', 'float32 has not',
  ),
  'integral over nothing': (CONTINUOUS, 'schedule.T=1', 'give schedule.T at least 2'),
  'chain of a VAE': (
    VAE, 'sampling.trajectory=True', 'sampling.trajectory is True, and vae has none',
  ),
  'inception without classifier': (
    VAE, 'quality.inception=w.npz', 'quality.classifier, which is empty',
  ),
  # Data and files that are not there.
  'unknown data set': (VAE, 'data.name=mnits', "did you mean 'mnist'?"),
  'no name of a data set': (VAE, 'data.name=', "unknown data set ''"),
  'unwritable data folder': (VAE, 'data.data_dir=/proc/none', 'choose a writable folder'),
  'no classifier': (VAE, 'quality.classifier=none', 'none/config.json cannot be read'),
  'data set of the next size': (
    'configs/mnist_diffusion.py:tiny', 'data.data_dir=/none', "tfds.builder('mnist'",
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', FIELDS)
def test_a_wrong_field(name, refuse_at, tmp_path):
  config, overrides, expected = FIELDS[name]
  arguments = [f'--config.{override}' for override in overrides.split(' ')]
  assert expected in refuse_at(tmp_path / 'w', config, *arguments)


FLAGS = {
  'unknown mode': (['--mode=fly'], "--mode is 'fly'"),
  'misspelt mode': (['--mode=evalute'], 'one of train, evaluate, sample'),
  'empty mode': (['--mode='], "--mode is ''"),
  'unknown flag': (['--nope=1'], 'nope'),
  'misspelt flag': (['--work_dir=x'], 'Did you mean: workdir'),
  'flag without a value': (['--num_samples'], 'num_samples'),
  'field without a value': (['--config.seed'], 'config.seed'),
  'stray argument': (['train'], "unexpected argument 'train'"),
  'nothing to evaluate': (['--mode=evaluate'], 'holds no run to evaluate'),
  'nothing to sample': (['--mode=sample'], 'holds no run to sample'),
  'no samples': (['--num_samples=0'], 'sampling.num_samples is 0'),
  'no number of samples': (['--num_samples=few'], 'num_samples=few'),
  'empty workdir': (['--workdir='], '--workdir is missing'),
}


@pytest.mark.parametrize('name', FLAGS)
def test_a_wrong_command_line(name, refuse_at, tmp_path):
  arguments, expected = FLAGS[name]
  assert expected in refuse_at(tmp_path / 'w', VAE, *arguments)


def test_missing_flags(refuse, tmp_path):
  assert '--config is missing' in refuse(f'--workdir={tmp_path}/w')
  assert '--workdir is missing' in refuse(f'--config={VAE}')
  assert '--config is missing' in refuse()


CONFIG_FILES = {
  'nothing': ('', 'get_config'),
  'no function': ('x = 1', 'get_config'),
  'no config': ('def get_config(): return 3', 'returns a ConfigDict'),
  'a syntax error': ('def get_config(:', 'SyntaxError'),
  'an unknown import': ('import nothing_like_it', "No module named 'nothing_like_it'"),
  'an exception': ('def get_config(): raise KeyError("gone")', "KeyError: 'gone'"),
  'several lines': ('def get_config(): raise ValueError("one\\ntwo")', 'ValueError: one two'),
  'an error of the system': ('def get_config(): open("/none")', 'returns a ConfigDict'),
  'an exit': ('def get_config(): raise SystemExit(0)', 'SystemExit: 0'),
  'no bytes of text': (b'\xff\xfe\x00', 'gives no config'),
  'an empty config': (
    'from ml_collections import ConfigDict\ndef get_config(): return ConfigDict()',
    'method.name is None; it is one of',
  ),
  'sections that are fields': (
    'from ml_collections import ConfigDict\n'
    'def get_config(): return ConfigDict({"method": {"name": "vae"}, "seed": 0})',
    'seeds is missing',
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', CONFIG_FILES)
def test_a_config_file_that_gives_no_config(name, refuse_at, tmp_path):
  code, expected = CONFIG_FILES[name]
  path = tmp_path / 'config.py'
  path.write_bytes(code if isinstance(code, bytes) else code.encode())
  assert expected in refuse_at(tmp_path / 'w', path)


def test_a_config_function_that_returns_nothing(run, tmp_path):
  """The library warns of it as well."""
  (tmp_path / 'config.py').write_text('def get_config(): pass')
  done = run(f'--config={tmp_path}/config.py', f'--workdir={tmp_path}/w')
  assert done.returncode == 2
  warning, line = done.stderr.splitlines()
  assert 'returned None' in warning
  assert line.startswith('error: --config has to name a file whose get_config() returns')


@pytest.mark.parametrize(
  ('config', 'expected'),
  [
    ('nowhere.py', '--config=nowhere.py names no file'),
    ('configs', '--config=configs names no file'),
    ('README.md', '--config=README.md gives no config'),
    ('configs/common.py', 'get_config'),
    ('', 'names no file'),
    ('configs/digits_vae.py:huge', "unknown variant 'huge'"),
    ('configs/variants.py', "unknown variant ''"),
    ('configs/variants.py:vae_cubic,tiny', "unknown variant 'vae_cubic'"),
    ('configs/compare.py:digits_gan', "unknown comparison 'digits_gan'"),
  ],
)
def test_a_config_that_there_is_not(config, expected, refuse_at, tmp_path):
  assert expected in refuse_at(tmp_path / 'w', config)


@pytest.mark.parametrize(
  ('field', 'batch_size', 'expected'),
  [
    ('training', 100, '96 or 104'),
    ('evaluation', 4, 'use 8'),
    ('sampling', 9, '8 or 16'),
  ],
)
def test_a_batch_that_the_devices_do_not_divide(field, batch_size, expected, refuse_at, tmp_path):
  name = f'{field}.batch_size'
  line = refuse_at(tmp_path / 'w', VAE, f'--config.{name}={batch_size}', num_devices=8)
  assert f'{name} is {batch_size}; it is not divisible by 8 devices; use' in line
  assert expected in line


@pytest.mark.parametrize('name', ['mnist', 'fashion_mnist', 'cifar10'])
def test_a_data_set_that_is_not_prepared(name, refuse_at, tmp_path):
  """The line has the command that prepares it, in the very folder."""
  config, environment = 'configs/mnist_vae.py:tiny', {'TFDS_DATA_DIR': str(tmp_path / 'data')}
  line = refuse_at(tmp_path / 'w', config, f'--config.data.name={name}', **environment)
  assert f'data set {name} is not prepared' in line
  assert "pip install 'vaediff[tensorflow]'" in line
  assert f"tfds.builder('{name}', data_dir='{tmp_path}/data'" in line
  assert not (tmp_path / 'data').exists()


def only(folder, pattern):
  (path,) = folder.glob(pattern)
  return path


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path):
  """Other bytes in the middle half of the file."""
  content = bytearray(path.read_bytes())
  quarter = len(content) // 4
  content[quarter : 3 * quarter] = np.random.default_rng(0).bytes(2 * quarter)
  path.write_bytes(content)


def replace(path, old, new):
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new))


def edit_json(path, **changes):
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGE = {
  'a truncated file': lambda d: truncate(only(d, '*test.array_record*')),
  'an empty file': lambda d: only(d, '*train.array_record*').write_bytes(b''),
  'overwritten bytes': lambda d: overwrite(only(d, '*train.array_record*')),
  'a missing file': lambda d: only(d, '*test.array_record*').unlink(),
  'no list of splits': lambda d: edit_json(d / 'dataset_info.json', splits=[]),
  'broken JSON': lambda d: (d / 'dataset_info.json').write_text('{"splits": ['),
  'JSON of something else': lambda d: (d / 'dataset_info.json').write_text('[1, 2]'),
  'no dataset_info.json': lambda d: (d / 'dataset_info.json').unlink(),
  'no features.json': lambda d: (d / 'features.json').unlink(),
  'broken features': lambda d: (d / 'features.json').write_text('{}'),
  'fewer classes': lambda d: replace(
    d / 'features.json', '"numClasses": "10"', '"numClasses": "9"'
  ),
  'an empty folder': lambda d: [path.unlink() for path in d.iterdir()],
}


@pytest.mark.parametrize('name', DAMAGE)
def test_a_damaged_data_set(name, refuse_at, tmp_path):
  """The line names the folder, and how to have it back."""
  folder = digits.prepare(tmp_path / 'data')
  DAMAGE[name](folder)
  before = contents(folder)
  line = refuse_at(tmp_path / 'w', VAE, TFDS_DATA_DIR=str(tmp_path / 'data'))
  assert f'data set digits in {folder} is damaged or incomplete' in line
  assert f'delete {folder}, and the next run prepares it again' in line
  assert contents(folder) == before


def test_a_data_set_of_other_levels(refuse_at, tmp_path, monkeypatch):
  scans = datasets.load_digits()
  scans.images += 1
  monkeypatch.setattr(datasets, 'load_digits', lambda: scans)
  digits.prepare(tmp_path / 'data')
  line = refuse_at(tmp_path / 'w', VAE, TFDS_DATA_DIR=str(tmp_path / 'data'))
  assert 'the split train has the level 17, not 0 to 16' in line


def test_a_data_set_in_another_format(refuse_at, tmp_path):
  folder = digits.prepare(tmp_path / 'data')
  edit_json(folder / 'dataset_info.json', fileFormat='tfrecord')
  for path in folder.glob('*.array_record*'):
    path.rename(path.with_name(path.name.replace('array_record', 'tfrecord')))
  line = refuse_at(tmp_path / 'w', VAE, TFDS_DATA_DIR=str(tmp_path / 'data'))
  assert 'is stored as tfrecord, and only array_record can be read' in line


@pytest.mark.parametrize('workdir', ['file', 'file/w', '/sys/w'])
def test_an_unwritable_workdir(workdir, refuse_at, tmp_path):
  (tmp_path / 'file').write_text('of mine')
  assert 'cannot be written' in refuse_at(tmp_path / workdir, VAE)
  assert (tmp_path / 'file').read_text() == 'of mine'


@pytest.fixture(scope='module')
def trained(tmp_path_factory, succeed):
  """The workdir of a classifier."""
  workdir = tmp_path_factory.mktemp('trained') / 'w'
  succeed(f'--config={CLASSIFIER}', f'--workdir={workdir}', '--config.evaluation.every=0')
  return workdir


CLASSIFIER_FLAG = '--config.evaluation.every=0'
WORKDIRS = {
  'another seed': ([CLASSIFIER, '--config.seed=1'], 'seed (there 0, here 1)'),
  'another method': ([VAE], 'method.name (there classifier, here vae)'),
  'another data folder and seed': (
    [CLASSIFIER, '--config.seed=1', '--config.data.data_dir=/none'], 'seed (there 0, here 1)',
  ),
  'another training to evaluate': (
    [CLASSIFIER, '--config.training.batch_size=64', '--mode=evaluate'],
    'training.batch_size (there 32, here 64)',
  ),
  'no samples of a classifier': (
    [CLASSIFIER, CLASSIFIER_FLAG, '--mode=sample'], 'generates nothing',
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', WORKDIRS)
def test_the_workdir_of_another_run(name, refuse_at, trained):
  arguments, expected = WORKDIRS[name]
  assert expected in refuse_at(trained, *arguments)


@pytest.mark.parametrize('content', ['[1]', '{', '', '3', b'\xff', '{"seed": 0}'])
def test_a_damaged_config_of_the_workdir(content, refuse_at, tmp_path):
  path = tmp_path / 'config.json'
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  assert str(tmp_path) in refuse_at(tmp_path, VAE)


def test_a_run_that_saved_nothing_yet(refuse, trained, tmp_path):
  shutil.copy(trained / 'config.json', tmp_path)
  arguments = (f'--config={CLASSIFIER}', f'--workdir={tmp_path}', CLASSIFIER_FLAG)
  assert 'holds no checkpoint to evaluate' in refuse(*arguments, '--mode=evaluate')
  files = {path.name: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()}
  files.pop('.lock', None)  # empty, and stays: see workdir.py
  assert files == {'config.json': (trained / 'config.json').read_bytes()}


def no_checkpoint(workdir):
  shutil.rmtree(workdir / 'checkpoints' / '20')


CLASSIFIERS = {
  'of other data': (
    lambda w: edit_json(
      w / 'config.json',
      data=json.loads((w / 'config.json').read_text())['data'] | {'name': 'mnist'},
    ),
    "'name': 'mnist'}, and this run asks for {'method': 'classifier'",
  ),
  'unfinished': (no_checkpoint, 'has no checkpoint of its last step'),
  'without a config': (lambda w: (w / 'config.json').unlink(), 'config.json cannot be read'),
  'with half a config': (lambda w: truncate(w / 'config.json'), 'config.json cannot be read'),
  'with another thing for a config': (
    lambda w: (w / 'config.json').write_text('[]'), 'quality.classifier names the workdir',
  ),
  'with a config of another version': (
    lambda w: edit_json(w / 'config.json', trunk=None), 'trunk is None; it is a section',
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_a_classifier_that_does_not_fit(name, refuse_at, trained, tmp_path):
  damage, expected = CLASSIFIERS[name]
  shutil.copytree(trained, tmp_path / 'classifier')
  damage(tmp_path / 'classifier')
  before = contents(tmp_path / 'classifier')
  line = refuse_at(tmp_path / 'w', VAE, f'--config.quality.classifier={tmp_path}/classifier')
  assert expected in line
  assert 'quality.classifier names the workdir of a finished classifier of the same data' in line
  assert contents(tmp_path / 'classifier') == before


def test_inception_of_grey_pictures(refuse_at, trained, tmp_path):
  arguments = [f'--config.quality.classifier={trained}', '--config.quality.inception=w.npz']
  line = refuse_at(tmp_path / 'w', VAE, *arguments)
  assert 'quality.inception is for colour pictures, and digits has 1 channel' in line


def test_a_message_of_several_lines_is_printed_as_one(refuse, tmp_path):
  line = refuse(f'--config={VAE}', f'--workdir={tmp_path}/two\nlines', '--mode=sample')
  assert 'two lines holds no run to sample' in line
