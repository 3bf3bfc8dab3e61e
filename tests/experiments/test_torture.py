"""A few kills of the torture; all of it: python tests/torture.py --kills=100."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_run_that_is_killed_ends_like_one_that_is_not():
  # With this seed one run is hit in training, in a write, in compilation, in evaluation and in
  # sampling, the second time by SIGTERM.
  arguments = ('--kills=4', '--seed=205', '--config=configs/variants.py:diffusion_importance,tiny')
  done = subprocess.run(
    [sys.executable, 'tests/torture.py', *arguments],
    cwd=ROOT,
    env=os.environ | {'XLA_FLAGS': os.environ['QUICK_XLA_FLAGS']},
    capture_output=True,
    text=True,
    timeout=900,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert 'SIGKILL in ' in done.stdout
