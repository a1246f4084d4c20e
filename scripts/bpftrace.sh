#!/usr/bin/env bash
# Runs one of the bpftrace recipes of scripts/bpftrace against the server.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/bpftrace.sh RECIPE [--pid PID | --drive] [--seconds N] [--url URL]
                           [-- LOADGEN-ARGUMENT...]

Looks for what bpftrace needs here, says what is missing, and runs scripts/bpftrace/RECIPE.bt for a
while. Each of these says in its first lines what it shows and how it is read:

END
  local recipe
  for recipe in "$RECIPES"/*.bt; do
    printf '  %-15s %s\n' "$(basename "$recipe" .bt)" "$(sed -n '1s,^// ,,p' "$recipe")"
  done
  echo
  common_usage
  cat <<'END'

It runs as root, outside of containers: bpftrace knows processes by the number that the host gives
them. Exit status: 0 measured, 2 it could not be measured.
END
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"
# shellcheck source=SCRIPTDIR/loadgen/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/loadgen/lib.sh"
# shellcheck source=SCRIPTDIR/lib/profile.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/profile.sh"

RECIPES=$ROOT/scripts/bpftrace

recipe=""
while [ $# -gt 0 ]; do
  case $1 in
    -*)
      common_option "$@"
      shift "$TAKEN"
      ;;
    *)
      [ -z "$recipe" ] || die "one recipe at a time: '$recipe' or '$1'?"
      recipe=$1
      shift
      ;;
  esac
done
[ -n "$recipe" ] || die "which recipe? See --help."
program=$RECIPES/$recipe.bt
if ! [[ $recipe =~ ^[a-z]+$ ]] || ! [ -r "$program" ]; then
  die "there is no recipe '$recipe'; there are: $(cd "$RECIPES" && echo *.bt | sed 's/\.bt//g')."
fi
check_options

# Says everything that is missing, not the first thing alone.
require_bpf() {
  local missing=() event lockdown
  [ "$(id -u)" -eq 0 ] || missing+=("root: run this with sudo")
  command -v bpftrace >/dev/null || missing+=("bpftrace: it is in the package bpftrace")
  [ -r /sys/kernel/btf/vmlinux ] ||
    missing+=("/sys/kernel/btf/vmlinux: a kernel with CONFIG_DEBUG_INFO_BTF")
  if [ -d "$(tracepoints)" ]; then
    while read -r event; do
      [ -d "$(tracepoints)/${event/://}" ] ||
        missing+=("the tracepoint $event: this kernel ($(uname -r)) does not have it")
    done < <(sed -n 's/^tracepoint:\([a-z_]*:[a-z_]*\).*/\1/p' "$program" | sort -u)
  else
    missing+=("tracefs: mount -t tracefs none /sys/kernel/tracing")
  fi
  lockdown=$(sed -n 's/.*\[\(.*\)\].*/\1/p' /sys/kernel/security/lockdown 2>/dev/null || true)
  [ "$lockdown" != confidentiality ] ||
    missing+=("reading the kernel: it is locked down (kernel_lockdown(7))")
  [ ${#missing[@]} -gt 0 ] || return 0
  printf '  %s\n' "${missing[@]}" >&2
  die "the recipe '$recipe' needs what stands above."
}

bpftrace_words() {
  sed 's/^/  bpftrace: /' "$SCRATCH/bpftrace.err" | tail -n 20 >&2
}

prepare
require_bpf
find_server
# Older kernels count maps against it.
ulimit -l unlimited 2>/dev/null || true
# The first tick comes when everything is attached.
{
  cat "$program"
  printf '%s\n' 'interval:ms:20 /!@attached/ { printf("attached\n"); @attached = 1; }'
} >"$SCRATCH/$recipe.bt"
bpftrace "$SCRATCH/$recipe.bt" "$pid" >"$SCRATCH/bpftrace.out" 2>"$SCRATCH/bpftrace.err" &
tracer=$!
BACKGROUND_PIDS+=("$tracer")
deadline=$((SECONDS + START_TIMEOUT_S))
until grep -qx attached "$SCRATCH/bpftrace.out" 2>/dev/null; do
  if ! kill -0 "$tracer" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
    bpftrace_words
    die "bpftrace could not attach the recipe '$recipe'; its words stand above."
  fi
  sleep 0.05
done
run_while
kill -INT "$tracer" 2>/dev/null || true
status=0
wait "$tracer" || status=$?
if [ "$status" -ne 0 ]; then
  bpftrace_words
  die "bpftrace ended with status $status; its words stand above."
fi
sed -n '/^attached$/,$p' "$SCRATCH/bpftrace.out" | grep -v '^@*attached' | cat -s
[ -z "$MESSAGES" ] || echo "messages: $MESSAGES echoed meanwhile"
