# shellcheck shell=bash
# --name, --zone and --dry_run of the scripts in this folder; the rest is left in `rest`. To be sourced.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../shell.sh
. "$here/../shell.sh"
name='' zone='' rest=()
for argument in "$@"; do
  case $argument in
    --name=*) name=${argument#*=} ;;
    --zone=*) zone=${argument#*=} ;;
    --dry_run) dry_run=1 ;;
    *) rest+=("$argument") ;;
  esac
done
[[ -n $name ]] || fail 'give --name=NAME, the name of the TPU.'
[[ $name =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] ||
  fail "--name=$name: it must be small letters, digits and hyphens, and start with a letter."
[[ -n $zone ]] || fail 'give --zone=ZONE, as in --zone=us-central2-b.'

# no_more KNOWN…: refuses what is left of the arguments.
no_more() { ((!${#rest[@]})) || fail "unknown argument ${rest[0]}; known: $*."; }

queue() { run gcloud compute tpus queued-resources "$@" --zone="$zone"; }
tpu() { run gcloud compute tpus tpu-vm "$@" --zone="$zone"; }
# on WORKER COMMAND…: runs a command on one host, or on all.
on() { tpu ssh "$name" --worker="$1" --command="$(quoted "${@:2}")"; }
# shellcheck disable=SC2034  # used by the scripts that source this
host=(bash oido/code/launch/recipes/tpu_vm/host.sh)
