#!/usr/bin/env bash
# Shows what the server's threads wait for when they are not on a processor.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/perf-offcpu.sh [--pid PID | --drive] [--seconds N] [--url URL] [--output FILE]
                              [--svg FILE] [--top N] [--call-graph fp|dwarf]
                              [-- LOADGEN-ARGUMENT...]

Records every switch of the server's threads with perf, and prints for each thread how long it was on
a processor, waited for completions of its ring (it had nothing to do), was preempted by somebody
else, and was blocked elsewhere; and where that was. A shard that is blocked elsewhere makes all of
its connections wait: a lock, a page that has to be read, a service that calls something slow.

  --output FILE   where the switches go (default: target/profile/offcpu.data)
  --svg FILE      draw the waiting, without that for completions, as a flame graph
  --top N         how many places to print (default 15)
  --call-graph fp|dwarf
                  how callers are found; see scripts/perf-record.sh
END
  common_usage
  cat <<'END'

A file of samples grows by about 180 bytes a switch.
Exit status: 0 measured, 2 it could not be measured.
END
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"
# shellcheck source=SCRIPTDIR/loadgen/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/loadgen/lib.sh"
# shellcheck source=SCRIPTDIR/lib/profile.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/profile.sh"

output=$PROFILE_OUT/offcpu.data
svg=""
top=15
while [ $# -gt 0 ]; do
  case $1 in
    --output | --svg | --top)
      [ -n "${2:-}" ] || die "$1 needs a value; see --help."
      declare "${1#--}=$2"
      shift 2
      ;;
    --frequency) die "every switch is recorded: there is no --frequency." ;;
    *)
      sampling_option "$@"
      shift "$TAKEN"
      ;;
  esac
done
check_options
check_sampling
is_whole "$top" 1 1000 || die "--top takes a number from 1 to 1000, not '$top'."

prepare
require_perf
require_python
require_writable "$output"
if [ -n "$svg" ]; then
  require_writable "$svg"
  require_inferno
fi
find_server
require_event context-switches "recording switches of process $pid"
[ -z "$USER_ONLY" ] || die "who waits is in the kernel: run this as root, or lower that setting:
  sudo sysctl kernel.perf_event_paranoid=1"
run_while perf record --quiet --no-buildid-cache -o "$output" -e context-switches -c 1 \
  --switch-events --call-graph "$call_graph" --max-size 1G -p "$pid" --
script_of "$output"
python3 "$STACKS" offcpu --top "$top" "$SCRATCH/script" "$SCRATCH/folded" \
  "$SCRATCH/after" || exit 2
echo
[ -z "$MESSAGES" ] || echo "messages: $MESSAGES echoed meanwhile"
echo "switches: $output"
if [ -n "$svg" ]; then
  if [ -s "$SCRATCH/folded" ]; then
    draw "$svg" "ringwire off the processor" "without waiting for completions" blue us
    echo "graph:    $svg"
  else
    echo "graph:    none, as nothing was waited for but completions"
  fi
fi
