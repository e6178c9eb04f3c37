#!/usr/bin/env bash
# What happens on each host of a TPU slice; the other scripts call it there.
#   host.sh [--dry_run] install           moves this copy of the code to ~/oido/code, makes ~/oido/venv
#   host.sh [--dry_run] mark FOLDER ID    leaves a mark in the folder …
#   host.sh [--dry_run] see FOLDER ID     … which every host must see
#   host.sh [--dry_run] start ARGUMENT…   starts `launch.train ARGUMENT…`; it outlives the ssh session
#   host.sh [--dry_run] stop              SIGTERM, so that a checkpoint is saved, and waits for the end
#   host.sh [--dry_run] state             says whether a run is active here
# Files: ~/oido/code, ~/oido/venv, ~/oido/train.log, ~/oido/run.pid.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../shell.sh
. "$here/../shell.sh"
home=$HOME/oido code=$(cd "$here/../../.." && pwd)
[[ ${1-} != --dry_run ]] || { dry_run=1 && shift; }
verb=${1-}
(($#)) && shift

active() {
  local pid
  pid=$(cat "$home/run.pid" 2>/dev/null) && grep -qsa again.sh "/proc/$pid/cmdline"
}

# The images of TPU VMs have an older Python than oido needs; uv brings its own.
make_venv() {
  local python
  for python in python3.13 python3.12 python3.11 python3; do
    if "$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      run "$python" -m venv "$home/venv"
      return
    fi
  done
  run python3 -m pip install --quiet --user uv
  run python3 -m uv venv --quiet --python=3.12 --seed "$home/venv"
}

case $verb in
  install)
    if active; then
      ((dry_run)) || rm -rf "$code"
      fail "a run is active on $(hostname): stop it with stop.sh first."
    fi
    if [[ $code != "$home/code" ]]; then
      run rm -rf "$home/code"
      run mv "$code" "$home/code"
    fi
    [[ -x $home/venv/bin/python ]] || make_venv
    run "$home/venv/bin/pip" install --quiet --disable-pip-version-check -e "$home/code[tpu]"
    ;;
  mark)
    run mkdir -p "$1"
    # shellcheck disable=SC2016  # expanded by the inner shell
    run bash -c 'echo "$2" >"$1"' - "$1/.seen_by_all_hosts" "$2"
    ;;
  see)
    run grep -qsx -e "$2" "$1/.seen_by_all_hosts" ||
      fail "--workdir=$1 is another folder on $(hostname) than on host 0: give a folder that all hosts mount."
    ;;
  start)
    ! active || fail "a run is active on $(hostname): stop it with stop.sh first."
    cd "$code"
    command=("$home/venv/bin/python" -m launch.train --distributed --requeue_code=75 "$@")
    if ((dry_run)); then
      run setsid bash launch/recipes/again.sh "${command[@]}"
      exit 0
    fi
    # A session of its own and no terminal: neither the end of ssh nor its hang-up reaches the run.
    PYTHONUNBUFFERED=1 setsid bash launch/recipes/again.sh --pause="${OIDO_PAUSE:-10}" "${command[@]}" \
      >>"$home/train.log" 2>&1 </dev/null &
    echo $! >"$home/run.pid"
    printf '%s: started, log in %s\n' "$(hostname)" "$home/train.log"
    ;;
  stop)
    if active; then
      run kill -TERM "$(cat "$home/run.pid")"
      for ((half = 0; half < 600 && !dry_run; half++)); do
        active || break
        sleep 0.5
      done
      if ((!dry_run)) && active; then
        fail "the run on $(hostname) did not end within 300 s."
      fi
    fi
    printf '%s: stopped\n' "$(hostname)"
    ;;
  state)
    if ((dry_run)); then
      run tail -n 1 "$home/train.log"
    elif active; then
      printf '%s: active\n' "$(hostname)"
    else
      printf '%s: not active; last line: %s\n' "$(hostname)" \
        "$(tail -n 1 "$home/train.log" 2>/dev/null || true)"
    fi
    ;;
  *) fail "unknown verb '$verb'; known: install, mark, see, start, stop, state." ;;
esac
