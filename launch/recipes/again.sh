#!/usr/bin/env bash
# Runs a command again as long as it ends with 75 (stopped, checkpoint saved) or 4 (another process of
# the run ended): again.sh [--max=100] [--pause=10] [--dry_run] COMMAND ARGUMENT…
# Any other code ends the loop and is passed on. SIGTERM goes to the command, and is the end of the loop.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=shell.sh
. "$here/shell.sh"
max=100 pause=10
while [[ ${1-} == --* ]]; do
  case $1 in
    --max=*) max=${1#*=} ;;
    --pause=*) pause=${1#*=} ;;
    --dry_run) dry_run=1 ;;
    *) fail "unknown flag $1; known: --max, --pause, --dry_run." ;;
  esac
  shift
done
(($#)) || fail 'give the command that is to run.'
[[ $max =~ ^[0-9]+$ && $pause =~ ^[0-9]+$ ]] || fail '--max and --pause must be whole numbers.'
if ((dry_run)); then
  run "$@"
  exit 0
fi

child='' stopped=0 interrupted=0
# shellcheck disable=SC2329  # called by the trap
stop() {
  stopped=1 interrupted=1
  [[ -z $child ]] || kill -TERM "$child" 2>/dev/null || true
}
trap stop TERM INT

for ((attempt = 0; ; attempt++)); do
  note "attempt $attempt: $(quoted "$@")"
  "$@" &
  child=$!
  # A signal ends `wait` before the command has ended: wait again. 127 says that its code was taken.
  code=127
  while :; do
    interrupted=0
    wait "$child"
    status=$?
    ((status == 127)) || code=$status
    ((interrupted && status > 128)) || break
  done
  child=''
  note "exit code $code"
  ((code == 75 || code == 4)) || exit "$code"
  ((!stopped)) || exit "$code"
  if ((attempt >= max)); then
    note "error: started again $max times; the run is not finished."
    exit "$code"
  fi
  sleep "$pause" &
  wait $!
  ((!stopped)) || exit "$code"
done
