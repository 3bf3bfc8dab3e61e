#!/usr/bin/env bash
# The four systems of the lecture side by side: trains them and a classifier on `digits` (10 minutes
# or more on two CPU cores) or `mnist` (an hour), measures likelihood and sample quality, and prints
# a table.
set -euo pipefail
dataset=${1:?"usage: bash scripts/compare.sh digits|mnist [folder]"}
folder=${2:-runs/compare}
. "$(dirname "$0")/environment.sh"
python -m experiments.run --config="configs/${dataset}_classifier.py" \
  --workdir="$folder/${dataset}_classifier"
workdirs=()
for system in autoencoder denoising_chain vae diffusion; do
  workdir="$folder/${dataset}_$system"
  echo "== $workdir"
  python -m experiments.run --config="configs/compare.py:${dataset}_$system" --workdir="$workdir" \
    --config.quality.classifier="$folder/${dataset}_classifier"
  workdirs+=("$workdir")
done
# The autoencoder's samples once more, from distributions fitted to its codes.
for codes in normal mixture; do
  workdir="$folder/${dataset}_autoencoder_$codes"
  [ -d "$workdir" ] || cp -r "$folder/${dataset}_autoencoder" "$workdir"
  for mode in evaluate sample; do
    python -m experiments.run --config="configs/compare.py:${dataset}_autoencoder" \
      --workdir="$workdir" --mode=$mode --config.sampler.codes=$codes \
      --config.quality.classifier="$folder/${dataset}_classifier"
  done
  workdirs+=("$workdir")
done
python -m experiments.table "${workdirs[@]}"
