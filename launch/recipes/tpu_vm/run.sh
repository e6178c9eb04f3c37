#!/usr/bin/env bash
# Starts a run on all hosts of a TPU slice:
#   run.sh --name=NAME --zone=ZONE [--dry_run] --config=CONFIG --workdir=WORKDIR [flags of launch.train]
# Copies this checkout to every host, installs it and starts launch.train there. The run goes on when
# this terminal is closed. Every host starts it again when it ends with 75 or 4; see again.sh.
# WORKDIR is a folder on a disk, or of a bucket, that all hosts mount, which is checked.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=flags.sh
. "$(dirname "${BASH_SOURCE[0]}")/flags.sh"
config='' workdir=''
for argument in ${rest[@]+"${rest[@]}"}; do
  case $argument in
    --config=*) config=${argument#*=} ;;
    --workdir=*) workdir=${argument#*=} ;;
    --*=* | --no*) ;;
    *) fail "$argument: write flags as --name=value." ;;
  esac
done
[[ -n $config ]] || fail 'give --config=CONFIG, as for launch.train.'
[[ $workdir == /* ]] ||
  fail "--workdir=$workdir: give the absolute path of a folder that all hosts mount (of a bucket: gcsfuse)."

id=$name-$(date -u +%Y%m%d-%H%M%S)-$$
archive=oido-$id.tar.gz
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
root=$(cd "$here/../../.." && pwd)
COPYFILE_DISABLE=1 run tar -czf "$folder/$archive" --exclude=./.git --exclude=./.venv --exclude=./runs \
  --exclude=__pycache__ -C "$root" .
tpu scp "$folder/$archive" "$name:" --worker=all
# shellcheck disable=SC2016  # expanded on the hosts
on all bash -c 'mkdir -p "oido/$1" && tar -xzf "oido-$1.tar.gz" -C "oido/$1" && rm "oido-$1.tar.gz" &&
  bash "oido/$1/launch/recipes/tpu_vm/host.sh" install' - "$id"
# One host leaves a mark in WORKDIR, all hosts look for it.
on 0 "${host[@]}" mark "$workdir" "$id"
on all "${host[@]}" see "$workdir" "$id"
on all "${host[@]}" start "${rest[@]}"
