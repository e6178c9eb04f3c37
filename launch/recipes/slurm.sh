#!/usr/bin/env bash
# One run on several GPU nodes under Slurm: sbatch launch/recipes/slurm.sh CONFIG WORKDIR [--config.…=…]
# Slurm's SIGTERM before the time limit saves a checkpoint; the same command resumes from it.
#SBATCH --job-name=oido
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail
config=$1 workdir=$2
shift 2
# jax.distributed finds the nodes in Slurm's environment.
srun --kill-on-bad-exit=1 .venv/bin/python -m launch.train \
  --distributed --config="$config" --workdir="$workdir" "$@"
