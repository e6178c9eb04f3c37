#!/usr/bin/env bash
# Asks for a TPU slice and waits until it is there:
#   create.sh --name=NAME --zone=ZONE --type=v5litepod-16 --version=v2-alpha-tpuv5-lite [--spot]
#     [--no_wait] [--dry_run] [other flags of `gcloud compute tpus queued-resources create`]
# The same command again goes on waiting.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=flags.sh
. "$(dirname "${BASH_SOURCE[0]}")/flags.sh"
type='' version='' wait=1 more=()
for argument in ${rest[@]+"${rest[@]}"}; do
  case $argument in
    --type=*) type=${argument#*=} ;;
    --version=*) version=${argument#*=} ;;
    --no_wait) wait=0 ;;
    --*) more+=("$argument") ;;
    *) fail "unknown argument $argument." ;;
  esac
done
[[ -n $type ]] || fail 'give --type=TYPE, as in --type=v5litepod-16.'
[[ -n $version ]] ||
  fail 'give --version=VERSION, the runtime of the TPU, as in --version=v2-alpha-tpuv5-lite.'

state() { gcloud compute tpus queued-resources describe "$name" --zone="$zone" --format='value(state.state)'; }

if ((dry_run)) || ! state >/dev/null 2>&1; then
  queue create "$name" --node-id="$name" --accelerator-type="$type" --runtime-version="$version" \
    ${more[@]+"${more[@]}"}
fi
if ((dry_run)); then
  queue describe "$name" --format='value(state.state)'
  exit 0
fi
while ((wait)); do
  found=$(state)
  case $found in
    ACTIVE) break ;;
    FAILED | SUSPENDING | SUSPENDED | DELETING)
      fail "$name is $found: delete it with delete.sh and ask again." ;;
  esac
  note "$name: $found"
  sleep "${OIDO_POLL:-30}"
done
note "$name: $(state)"
