#!/usr/bin/env bash
# Follows the log of one host, or shows the state and last lines of all:
#   logs.sh --name=NAME --zone=ZONE [--worker=0 | --worker=all] [--lines=100] [--dry_run]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=flags.sh
. "$(dirname "${BASH_SOURCE[0]}")/flags.sh"
worker=0 lines=100
for argument in ${rest[@]+"${rest[@]}"}; do
  case $argument in
    --worker=*) worker=${argument#*=} ;;
    --lines=*) lines=${argument#*=} ;;
    *) fail "unknown argument $argument; known: --name, --zone, --worker, --lines, --dry_run." ;;
  esac
done
if [[ $worker == all ]]; then
  on all "${host[@]}" state
  on all tail -n "$lines" oido/train.log
else
  on "$worker" tail -n "$lines" -F oido/train.log
fi
