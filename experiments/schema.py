"""What a config may contain: every field, its type and its range.

`check` compares a config with the schema before anything is built. The first field that does not
fit raises an `InputError` that says which, what arrived and what is allowed.
"""

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from vaediff import reverse_process, sampling, time_sampling
from vaediff.errors import InputError
from vaediff.methods import coding, denoising_chain, diffusion, vae


class Field(NamedTuple):
  """One field: the test that a value has to pass, and the same in words."""

  holds: Callable[[Any], bool]
  allowed: str


class Variants(NamedTuple):
  """A section whose other fields depend on its field `name`."""

  sections: dict[str, dict]


# What a config may ask for at most, far above what is of use: the levels of a noise schedule, whose
# table is in memory several times; the units of a layer; layers and draws of a loss, each of which
# is a part of the compiled program; seeds, each of which has a state; devices made of a CPU. One
# more than allowed.
MOST_LEVELS = 10**6 + 1
MOST_UNITS = 2**16
MOST_LAYERS = 65
MOST_DRAWS = 1001
MOST_SEEDS = 2**16
MOST_CPU_DEVICES = 1025
# Beyond it exp(log_snr) leaves the range of float32.
LARGEST_LOG_SNR = 80


def integer(minimum: int, below: int = 2**31) -> Field:
  """Integers are of 32 bits on a device."""
  return Field(
    lambda v: _is_int(v) and minimum <= v < below,
    f'an integer of at least {minimum} and below {below}',
  )


def number(minimum: float = float('-inf'), below: float = float('inf')) -> Field:
  """The range is that of the number as float32, in which it is computed with."""
  return Field(
    lambda v: _is_finite(v) and minimum <= _as_float32(v) < below,
    f'a finite number in [{minimum:g}, {below:g}), in float32',
  )


def positive(below: float = float('inf')) -> Field:
  """As `number`. What is below the normal numbers of float32 may count as zero on a device."""
  return Field(
    lambda v: _is_finite(v) and np.finfo(np.float32).tiny <= _as_float32(v) < below,
    f'a finite number in (0, {below:g}), in float32',
  )


def one_of(*values: str) -> Field:
  return Field(lambda v: v in values and isinstance(v, str), f'one of {", ".join(values)}')


def integers(
  at_least_one: bool = True, below: int = MOST_UNITS, example: str = '(256, 128)'
) -> Field:
  entry = integer(1, below)
  return Field(
    lambda v: isinstance(v, tuple) and len(v) >= at_least_one and all(map(entry.holds, v)),
    f'a tuple of positive integers below {below}, as in {example}',
  )


SIZE = integer(1, MOST_UNITS)
FRACTION = Field(lambda v: _is_finite(v) and 0 <= v <= 1, 'a number in [0, 1]')
BOOLEAN = Field(lambda v: isinstance(v, bool), 'True or False')
STRING = Field(lambda v: isinstance(v, str), 'a string')
ACTIVATION = one_of('tanh', 'relu', 'gelu', 'silu')

MLP = {'widths': integers(at_least_one=False), 'activation': ACTIVATION}
CONV = {'widths': integers(), 'num_blocks': integer(1, MOST_LAYERS)}
CODER = Variants({'mlp': MLP, 'conv': CONV})
DENOISER = Variants(
  {
    'mlp': {'widths': integers(), 'activation': ACTIVATION},
    'unet': {
      'widths': integers(),
      'num_blocks': integer(1, MOST_LAYERS),
      'patch_size': SIZE,
      'attention': BOOLEAN,
      # Beyond 2^23 float32 does not resolve a turn of the sine.
      'fourier_exponents': integers(at_least_one=False, below=24, example='(3, 4)'),
      'remat': BOOLEAN,
    },
    'transformer': {
      'width': integer(2, MOST_UNITS),
      'num_blocks': integer(1, MOST_LAYERS),
      'num_heads': SIZE,
      'patch_size': SIZE,
      'remat': BOOLEAN,
    },
  }
)
DISCRETIZED = {'scale': one_of('per_pixel', 'shared', 'fixed'), 'fixed_scale': positive()}
LIKELIHOOD = Variants(
  {'bernoulli': {}, 'discretized_normal': DISCRETIZED, 'discretized_logistic': DISCRETIZED}
)
KL_WEIGHT = Variants(
  {
    'linear': {'beta': number(0), 'warmup_steps': integer(0), 'start': integer(0)},
    'cyclical': {'beta': number(0), 'period': integer(1), 'ramp': positive()},
  }
)
LOG_SNR = number(-LARGEST_LOG_SNR, LARGEST_LOG_SNR)
FIXED_SCHEDULES = {
  'linear': {'T': integer(1, MOST_LEVELS), 'beta_first': positive(1), 'beta_last': positive(1)},
  'cosine': {'T': integer(1, MOST_LEVELS)},
  'linear_log_snr': {'T': integer(1, MOST_LEVELS), 'first': LOG_SNR, 'last': LOG_SNR},
}
LEARNED_SCHEDULE = {'learned': {'T': integer(2, MOST_LEVELS), 'first': LOG_SNR, 'last': LOG_SNR}}

EVALUATION = {'split': one_of('test', 'validation'), 'batch_size': integer(1), 'every': integer(0)}
# num_steps = 0: all levels of the schedule. noise_scale is for ancestral sampling, eta for DDIM and
# DPM-Solver++(2M).
SAMPLER = {
  'name': one_of(*diffusion.SAMPLERS),
  'num_steps': integer(0),
  'spacing': one_of(*sampling.SPACINGS),
  'guidance': number(0),
  'noise_scale': number(0),
  'eta': FRACTION,
}
# Which codes are decoded to samples.
CODE_SAMPLER = {
  'codes': one_of(*coding.CODES),
  'num_components': integer(1),
  'refinements': integer(0),
  'refine_by': one_of(*coding.REFINEMENTS),
}

COMMON = {
  # seed, seed + 1, ..., seeds of them, each as in a run of its own.
  'seed': integer(0, below=2**32),
  'seeds': integer(1, below=MOST_SEEDS),
  # 0: one for each core.
  'cpu_devices': integer(0, below=MOST_CPU_DEVICES),
  'compute_dtype': one_of('float32', 'bfloat16'),
  'data': {'name': STRING, 'data_dir': STRING, 'binarize': BOOLEAN},
  'training': {
    'num_steps': integer(1),
    'batch_size': integer(1),
    'steps_per_dispatch': integer(1),
    'checkpoint_every': integer(1),
    'ema_decay': number(0, 1),
    'gradient_accumulation': integer(1),
  },
  'optimizer': {
    'name': one_of('adam', 'muon'),
    'learning_rate': positive(),
    'decay': one_of('cosine', 'constant'),
    'warmup_steps': integer(0),
    'b1': number(0, 1),
    'b2': number(0, 1),
    'eps': positive(),
    'weight_decay': number(0),
    'clip_norm': number(0),
  },
  'evaluation': EVALUATION,
  'sampling': {'num_samples': integer(1), 'batch_size': integer(1), 'trajectory': BOOLEAN},
  # num_examples = 0: all of the training split.
  'fit': {'num_examples': integer(0)},
  # classifier: the workdir of a finished one; '': the quality of samples is not measured.
  # inception: a file with the weights of InceptionV3, for the FID of colour pictures; '': none.
  'quality': {'classifier': STRING, 'num_samples': integer(12), 'inception': STRING},
}

METHODS = {
  'vae': {
    'method': {
      'name': STRING,
      'latent_dim': SIZE,
      'prior': one_of('normal', 'uniform'),
      'posterior': one_of('diagonal', 'full', 'box'),
      'objective': one_of(*vae.OBJECTIVES),
      'num_draws': integer(1, MOST_DRAWS),
      'free_bits': number(0),
      'sample_pixels': BOOLEAN,
    },
    'likelihood': LIKELIHOOD,
    'kl_weight': KL_WEIGHT,
    'encoder': CODER,
    'decoder': CODER,
    'sampler': CODE_SAMPLER,
    'evaluation': EVALUATION
    | {
      'likelihood': one_of(*vae.BOUNDS),
      'num_draws': integer(1),
      'num_temperatures': integer(1),
    },
  },
  'autoencoder': {
    'method': {'name': STRING, 'latent_dim': SIZE, 'sample_pixels': BOOLEAN},
    'likelihood': LIKELIHOOD,
    'encoder': CODER,
    'decoder': CODER,
    'sampler': CODE_SAMPLER,
  },
  'denoising_chain': {
    'method': {'name': STRING, 'networks': one_of(*denoising_chain.NETWORKS)},
    'schedule': Variants(FIXED_SCHEDULES),
    'denoiser': DENOISER,
  },
  'classifier': {
    'method': {'name': STRING, 'num_features': SIZE, 'max_shift': integer(0)},
    'trunk': CODER,
  },
  'diffusion': {
    'method': {
      'name': STRING,
      'prediction': one_of(*reverse_process.PREDICTIONS),
      'num_level_features': SIZE,
      'variance': one_of(*reverse_process.VARIANCES),
      'loss': one_of(*diffusion.LOSSES),
      'hybrid_weight': number(0),
      'times': one_of(*time_sampling.SAMPLERS),
      'conditional': BOOLEAN,
      'label_dropout': FRACTION,
      'decoder': one_of(*diffusion.DECODERS),
      'clip_x_0': BOOLEAN,
    },
    'schedule': Variants(FIXED_SCHEDULES | LEARNED_SCHEDULE),
    'sampler': SAMPLER,
    # num_times = 0: all.
    'evaluation': EVALUATION
    | {
      'likelihood': one_of(*diffusion.BOUNDS),
      'num_times': integer(0),
      'divergence': one_of('exact', 'hutchinson'),
      'time_terms': BOOLEAN,
    },
    'denoiser': DENOISER,
  },
}


def check(config: Mapping) -> None:
  """Raises InputError for the first field of the config that the schema does not allow."""
  if not isinstance(config, Mapping):
    raise InputError(f'the config is {config!r}; it is made of sections')
  name = _variant('method', config.get('method'), METHODS)
  _check_section('', config, COMMON | METHODS[name])
  if config['seed'] + config['seeds'] > 2**32:
    raise InputError(
      f'seeds is {config["seeds"]}, from seed {config["seed"]} on, and seeds are below {2**32}; '
      'use a smaller seed'
    )
  training, evaluation = config['training'], config['evaluation']
  for path, value in (
    ('training.num_steps', training['num_steps']),
    ('training.checkpoint_every', training['checkpoint_every']),
    ('evaluation.every', evaluation['every']),
  ):
    per_dispatch = training['steps_per_dispatch']
    if value % per_dispatch:
      raise InputError(
        f'{path} is {value}; it has to be a multiple of training.steps_per_dispatch = '
        f'{per_dispatch}, as {nearest_multiples(value, per_dispatch)} are'
      )


def batch_sizes(config: Mapping) -> dict[str, tuple[int, int]]:
  """What the devices of a run share: {field: (size, in how many parts a device computes it)}."""
  return {
    f'{section}.batch_size': (
      config[section]['batch_size'],
      config[section].get('gradient_accumulation', 1),
    )
    for section in ('training', 'evaluation', 'sampling')
  }


def check_divisible(path: str, value: int, num_devices: int, num_parts: int = 1) -> None:
  """Raises InputError where a batch does not split evenly over the devices, in parts each."""
  if value % (num_devices * num_parts):
    parts = f' times training.gradient_accumulation = {num_parts}' if num_parts > 1 else ''
    raise InputError(
      f'{path} is {value}; it is not divisible by {num_devices} devices{parts}; use '
      f'{nearest_multiples(value, num_devices * num_parts)}'
    )


def nearest_multiples(value: int, divisor: int) -> str:
  """The positive multiples of divisor next to value, in words."""
  lower = value // divisor * divisor
  return f'{lower} or {lower + divisor}' if lower else f'{divisor}'


def nearest_name(name: str, names) -> str:
  """', did you mean X?' for the most similar of the names, '' where none is similar."""
  matches = difflib.get_close_matches(name, names, n=1)
  return f'; did you mean {matches[0]}?' if matches else ''


def flatten(config: Mapping, prefix: str = '') -> dict[str, Any]:
  """The fields by their full names: {'a': {'b': 1}} -> {'a.b': 1}."""
  flat = {}
  for name, value in config.items():
    if isinstance(value, Mapping):
      flat |= flatten(value, f'{prefix}{name}.')
    else:
      flat[prefix + name] = value
  return flat


def _check_section(path: str, section: Any, schema: dict | Variants) -> None:
  if not isinstance(section, Mapping):
    raise InputError(f'{path} is {section!r}; it is a section of the config')
  kind = 'this config'
  if isinstance(schema, Variants):
    name = _variant(path, section, schema.sections)
    schema = {'name': STRING} | schema.sections[name]
    kind = f'{path} {name}, whose fields are {", ".join(schema)}'
  prefix = f'{path}.' if path else ''
  for key in section:
    if key not in schema:
      nearest = nearest_name(f'{prefix}{key}', [f'{prefix}{name}' for name in schema])
      raise InputError(f'{prefix}{key} is not a field of {kind}{nearest}')
  for key, field in schema.items():
    if key not in section:
      raise InputError(f'{prefix}{key} is missing from the config')
    if not isinstance(field, Field):
      _check_section(f'{prefix}{key}', section[key], field)
    elif not field.holds(section[key]):
      raise InputError(f'{prefix}{key} is {section[key]!r}; it is {field.allowed}')


def _variant(path: str, section: Any, names: Mapping) -> str:
  """The field `name` of a section, which is to be one of the names."""
  name = section.get('name') if isinstance(section, Mapping) else None
  if not isinstance(name, str) or name not in names:
    raise InputError(f'{path}.name is {name!r}; it is one of {", ".join(names)}')
  return name


def _is_finite(value: Any) -> bool:
  """Whether the value is a number that float32 has."""
  is_number = (_is_int(value) and abs(value) < 2**63) or isinstance(value, float)
  return is_number and math.isfinite(_as_float32(value))


def _as_float32(value: float) -> np.float32:
  with np.errstate(all='ignore'):
    return np.float32(value)


def _is_int(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)
