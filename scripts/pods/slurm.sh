#!/bin/bash
# One run on four nodes of eight GPUs, one process for each GPU, as JAX has it under SLURM:
#
#   sbatch scripts/pods/slurm.sh --config=configs/mnist_diffusion.py --workdir=/shared/mnist_diffusion
#
# srun sets the environment that jax.distributed reads. Before the time is up SLURM sends SIGTERM:
# all processes save after the same step, and the job, queued again, goes on from there.
#SBATCH --job-name=vaediff
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=4
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -uo pipefail
srun --kill-on-bad-exit=1 python -m experiments.run --distributed "$@"
status=$?
if [ "$status" -eq 143 ]; then # stopped by SIGTERM
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
