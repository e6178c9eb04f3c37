#!/usr/bin/env bash
# One run on a TPU pod slice: launch/recipes/tpu_vm.sh NAME ZONE CONFIG WORKDIR [--config.…=…]
# Copies this checkout to every host of the slice, installs it and starts the same command on all hosts.
# WORKDIR must be accessible from every host (a mounted bucket or a network disk).
set -euo pipefail
name=$1 zone=$2 config=$3 workdir=$4
shift 4
tpu() { gcloud compute tpus tpu-vm "$@" --zone="$zone"; }
tar --exclude=.venv --exclude=runs --exclude=.git -czf /tmp/oido.tar.gz .
tpu scp /tmp/oido.tar.gz "$name": --worker=all
tpu ssh "$name" --worker=all --command="
  set -e; mkdir -p oido; tar -xzf oido.tar.gz -C oido; cd oido
  test -d .venv || python3 -m venv .venv
  .venv/bin/pip install --quiet -e '.[tpu]'
  .venv/bin/python -m launch.train --distributed --config=$config --workdir=$workdir $*"
