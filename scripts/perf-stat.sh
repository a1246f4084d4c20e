#!/usr/bin/env bash
# Counts what the server costs: processor time, switches, faults, and cycles where it can.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/perf-stat.sh [--pid PID | --drive] [--seconds N] [--url URL] [--rate N]
                            [-- LOADGEN-ARGUMENT...]

Counts events of the server with perf and prints them as a total, for a second, and for a message
where the messages are known; and what each thread had of a processor. Where the machine has no
hardware counters, as most virtual ones, it counts the events of the kernel alone and says so.

  --rate N        messages a second, where the load is not loadgen's and you know it
END
  common_usage
  cat <<'END'

A message is one that was received and answered.
Exit status: 0 measured, 2 it could not be measured.
END
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"
# shellcheck source=SCRIPTDIR/loadgen/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/loadgen/lib.sh"
# shellcheck source=SCRIPTDIR/lib/profile.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/profile.sh"

SOFTWARE=(task-clock context-switches cpu-migrations page-faults)
HARDWARE=(cycles instructions branches branch-misses cache-references cache-misses
  L1-dcache-load-misses dTLB-load-misses iTLB-load-misses)

while [ $# -gt 0 ]; do
  rate_option "$@"
  shift "$TAKEN"
done
check_options
check_rate

prepare
require_perf
require_python
find_server
require_event task-clock "counting events of process $pid"

events=("${SOFTWARE[@]}")
uncounted=()
for event in "${HARDWARE[@]}"; do
  if perf_can "$event"; then
    events+=("$event")
  else
    uncounted+=("$event")
  fi
done

count_while "${events[@]}"
{
  counted task-clock "processor time" ms
  processor_split
  if [ -z "$USER_ONLY" ]; then
    counted context-switches "context switches"
    counted cpu-migrations "moves to another processor"
  fi
  counted page-faults "page faults"
  for event in "${HARDWARE[@]}"; do
    counted "$event" "$event"
  done
} >"$SCRATCH/figures"
figures
instructions=$(count_of instructions)
cycles=$(count_of cycles)
if [ -n "$instructions" ] && [ -n "$cycles" ]; then
  awk -v instructions="$instructions" -v cycles="$cycles" '
    BEGIN { if (cycles) printf "%.2f instructions a cycle\n", instructions / cycles }'
fi
if [ ${#uncounted[@]} -gt 0 ]; then
  echo
  echo "Not counted, because this machine shows no such hardware counters (a virtual one?):"
  echo "  ${uncounted[*]}"
fi
echo
python3 "$STACKS" threads "$SCRATCH/before" "$SCRATCH/after"
