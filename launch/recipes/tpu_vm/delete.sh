#!/usr/bin/env bash
# Deletes a TPU slice and all that is on its disks: delete.sh --name=NAME --zone=ZONE [--dry_run]
# Stop the run first with stop.sh, or lose the steps since its last checkpoint.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=flags.sh
. "$(dirname "${BASH_SOURCE[0]}")/flags.sh"
no_more --name, --zone, --dry_run
queue delete "$name" --force --quiet
