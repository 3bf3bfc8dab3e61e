"""The forked program of these tests is the program that a fresh interpreter runs.

That it trains alike is tested where resumption is: one run is of a fresh interpreter, the other of
a fork.
"""

import pytest

TINY = '--config=configs/digits_vae.py:tiny'


@pytest.mark.parametrize('arguments', [(TINY,), (TINY, '--config.data.binarize=True')])
def test_a_fork_refuses_like_a_fresh_interpreter(arguments, run, tmp_path):
  arguments = (*arguments, f'--workdir={tmp_path}/w', '--mode=sample')
  forked, fresh = (run(*arguments, is_forked=is_forked) for is_forked in (True, False))
  assert forked.returncode == fresh.returncode == 2
  assert (forked.stdout, forked.stderr) == (fresh.stdout, fresh.stderr)


@pytest.mark.parametrize(
  ('code', 'returncode', 'stdout', 'stderr'),
  [
    ('print(__name__, sys.argv[1:])', 0, "__main__ ['a', 'b']", ''),
    ('print(os.environ["CHANGED"], os.getcwd())', 0, 'yes CWD', ''),
    ('print(sys.stdin.read())', 0, '', ''),
    ('import jax; print(jax.device_count())', 0, '8', ''),
    ('sys.exit(7)', 7, '', ''),
    ('sys.exit("stop")', 1, '', 'stop'),
    ('raise KeyError(3)', 1, '', 'KeyError: 3'),
    ('os.abort()', -6, '', ''),
    ('os.kill(os.getpid(), 9)', -9, '', ''),
  ],
)
def test_a_fork_has_its_own_streams_environment_and_status(
  code, returncode, stdout, stderr, run, tmp_path
):
  (tmp_path / 'given.py').write_text(f'import os, sys\n{code}\n')
  done = run('a', 'b', module='given', cwd=tmp_path, num_devices=8, CHANGED='yes')
  assert done.returncode == returncode
  assert done.stdout.strip() == stdout.replace('CWD', str(tmp_path))
  assert (done.stderr.splitlines() or [''])[-1] == stderr
