#!/usr/bin/env bash
# Sets up, then checks format, lint and tests. Arguments go to pytest.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
ruff format --check .
ruff check .
python -m pytest --numprocesses=auto "$@"
