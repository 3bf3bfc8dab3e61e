#!/usr/bin/env bash
# The main job: sets up, trains a VAE and a diffusion model on the digits inside scikit-learn, and
# ends with their samples and a table of their test likelihoods.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
for name in digits_vae digits_diffusion; do
  echo "== $name"
  python -m experiments.run --config=configs/$name.py --workdir=runs/$name
done
python -m experiments.table runs/digits_vae runs/digits_diffusion
