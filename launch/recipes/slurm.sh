#!/usr/bin/env bash
# One run on several GPU nodes under Slurm:
#   sbatch launch/recipes/slurm.sh --config=CONFIG --workdir=WORKDIR [flags of launch.train]
#   bash launch/recipes/slurm.sh --dry_run --config=…     prints the srun line
# Before the time limit, or when the job is preempted, SIGTERM makes the run save and end with 75. Then,
# or when a process was lost (4), the job goes back into the queue and resumes from its checkpoint.
#SBATCH --job-name=oido
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail
max_restarts=1000

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

dry_run=0 config='' workdir='' flags=()
for argument in "$@"; do
  case $argument in
    --dry_run) dry_run=1 && continue ;;
    --config=*) config=${argument#*=} ;;
    --workdir=*) workdir=${argument#*=} ;;
    --*=* | --no*) ;;
    *) fail "$argument: write flags as --name=value." ;;
  esac
  flags+=("$argument")
done
[[ -n $config && -n $workdir ]] || fail 'give --config=CONFIG and --workdir=WORKDIR, as for launch.train.'

# srun does not take over sbatch's --cpus-per-task (since Slurm 22.05).
cpus=${SLURM_CPUS_PER_TASK:-$(sed -n 's/^#SBATCH --cpus-per-task=//p' "${BASH_SOURCE[0]}")}
# srun gives the highest code of all tasks: bad input (2) must outrank the 4 of the others, so it is 102
# there. The trap keeps the shell alive when Slurm signals all processes of the step.
# shellcheck disable=SC2016  # expanded by the inner shell
task='trap : TERM; "$@"; code=$?; [ "$code" != 2 ] || code=102; exit "$code"'
# No --kill-on-bad-exit: the first task to end with 75 must not kill those that still save.
line=(srun --cpus-per-task="$cpus" --kill-on-bad-exit=0 --wait=300
  bash -c "$task" - "${PYTHON:-.venv/bin/python}" -m launch.train
  --distributed --requeue_code=75 "${flags[@]}")
if ((dry_run)); then
  # One line of shell, safe with any character in the values. (Slurm runs a copy of this file, which
  # cannot source its neighbours.)
  q="'\"'\"'"
  for word in "${line[@]}"; do
    printf "'%s' " "${word//\'/$q}"
  done
  printf '\n'
  exit 0
fi

# The steps get the signal from Slurm; this shell only has to outlive it.
trap : TERM
"${line[@]}"
code=$?
((code != 102)) || code=2
if ((code == 75 || code == 4)); then
  ((${SLURM_RESTART_COUNT:-0} < max_restarts)) || fail "started again $max_restarts times; the run is not finished."
  printf 'ended with %d: the job goes back into the queue\n' "$code"
  scontrol requeue "$SLURM_JOB_ID" || fail "scontrol requeue $SLURM_JOB_ID failed; submit the same command again."
fi
exit "$code"
