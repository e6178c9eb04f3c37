# shellcheck shell=bash
# What the scripts share: quoting, dry runs, errors in one sentence. To be sourced.
dry_run=0

# quoted WORD…: the words as one line of shell, safe with any character in them.
quoted() {
  local word line='' q="'\"'\"'"
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_@%+=:,./-]*) word="'${word//\'/$q}'" ;;
    esac
    line+="${line:+ }$word"
  done
  printf '%s' "$line"
}

# run COMMAND ARGUMENT…: prints the command and runs it; with --dry_run it only prints it.
run() {
  if ((dry_run)); then
    printf '%s\n' "$(quoted "$@")"
    return 0
  fi
  printf '$ %s\n' "$(quoted "$@")" >&2
  "$@"
}

note() { printf '[%s] %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*" >&2; }

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}
