"""Whether the numbers of a finished run still hold: evaluates it again and compares."""

from experiments import measures
from experiments.tools import Tools
from vaediff.errors import RunError
from vaediff.methods.base import Variables

# A number holds if it is within this of the one on record: other devices and other versions of the
# compiler add floats in another order.
RELATIVE_TOLERANCE = 1e-5
# Or within this fraction of its standard error, where a difference is of no consequence.
STANDARD_ERRORS = 0.01


def verify(tools: Tools, variables: Variables, step: int, recorded: dict) -> None:
  """Measures again, and compares with what is on record; writes nothing.

  recorded: the content of results.json. Prints a line for each metric. Raises RunError where a
  number does not hold, and where the newest checkpoint is not of the step on record.
  """
  if step != recorded['step']:
    raise RunError(
      f'the numbers on record are of step {recorded["step"]}, and the newest sound checkpoint is '
      f'of step {step}'
    )
  before, now = _recorded_metrics(recorded), {}
  for seed, (metrics, _) in zip(tools.seeds, measures.measure(tools, variables), strict=True):
    now |= _named(tools.tag(seed), metrics)
  found = {name: verdict(before.get(name), now.get(name)) for name in before | now}
  for name, word in found.items():
    there, here = (_in_words(metrics.get(name)) for metrics in (before, now))
    print(f'{name:26} {word:8} recorded {there}, now {here}')
  wrong = [name for name, word in found.items() if word in ('differs', 'absent')]
  if wrong:
    raise RunError(f'{len(wrong)} of {len(found)} numbers do not hold: {", ".join(wrong)}')
  num_equal = sum(word == 'equal' for word in found.values())
  print(f'all {len(found)} numbers hold, {num_equal} of them bit for bit')


def _recorded_metrics(recorded: dict) -> dict[str, dict]:
  """Of several seeds those of each: the others are their means."""
  if 'seeds' not in recorded:
    return recorded['metrics']
  found = {}
  for of_seed in recorded['seeds']:
    found |= _named(of_seed['seed'], of_seed.get('metrics', {}))
  return found


def _named(seed: int | None, metrics: dict[str, dict]) -> dict[str, dict]:
  return metrics if seed is None else {f'seed {seed} {name}': m for name, m in metrics.items()}


def verdict(before: dict | None, now: dict | None) -> str:
  """'equal', 'holds', 'differs' or 'absent': a metric on record against the same measured again."""
  if before is None or now is None:
    return 'absent'
  if (before['value'], before['stderr']) == (now['value'], now['stderr']):
    return 'equal'
  tolerance = max(RELATIVE_TOLERANCE * abs(before['value']), STANDARD_ERRORS * before['stderr'])
  return 'holds' if abs(before['value'] - now['value']) <= tolerance else 'differs'


def _in_words(metric: dict | None) -> str:
  return 'none' if metric is None else f'{metric["value"]!r} +- {metric["stderr"]:.3g}'
