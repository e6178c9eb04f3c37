#!/usr/bin/env bash
# Stops the run on all hosts, with a checkpoint: stop.sh --name=NAME --zone=ZONE [--dry_run]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=flags.sh
. "$(dirname "${BASH_SOURCE[0]}")/flags.sh"
no_more --name, --zone, --dry_run
on all "${host[@]}" stop
