#!/usr/bin/env bash
# Sets up, then makes the paper. Arguments go to experiments.paper: --workdir=W [--quick] ...
set -euo pipefail
. "$(dirname "$0")/environment.sh"
python -m experiments.paper "$@"
