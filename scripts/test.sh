#!/usr/bin/env bash
# Sets up, then checks format, lint and tests. Arguments go to pytest.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
ruff format --check .
ruff check .
python -m pytest --numprocesses=auto "$@"
# Fast paths once more, as runs compile them: tests are compiled without optimisation.
if [ $# -eq 0 ]; then
  TEST_XLA_FLAGS= python -m pytest --numprocesses=auto tests/networks/test_layers.py \
    tests/test_likelihoods.py tests/test_parallel.py
fi
