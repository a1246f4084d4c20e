#!/usr/bin/env bash
# Samples where the server spends its processor time, and prints the functions that took most.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/perf-record.sh [--pid PID | --drive] [--seconds N] [--url URL] [--output FILE]
                              [--top N] [--lines] [--frequency HZ] [--call-graph fp|dwarf]
                              [-- LOADGEN-ARGUMENT...]

Samples the server with perf and prints what its threads were doing: in user space function by
function, those that the compiler put into others included, and in the kernel. What the standard
library does is counted as its caller's. On a machine without hardware counters, as most virtual
ones are, the samples come from a clock; then a kernel function that runs with interrupts off shows
as the one that turns them on again, such as _raw_spin_unlock_irqrestore.

  --output FILE   where the samples go, for perf report and scripts/flamegraph.sh
                  (default: target/profile/perf.data)
  --top N         how many functions to print (default 15)
  --lines         print the lines of code as well
END
  sampling_usage
  common_usage
  cat <<'END'

Exit status: 0 measured, 2 it could not be measured.
END
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"
# shellcheck source=SCRIPTDIR/loadgen/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/loadgen/lib.sh"
# shellcheck source=SCRIPTDIR/lib/profile.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/profile.sh"

output=$PROFILE_OUT/perf.data
top=15
report=(oncpu)
while [ $# -gt 0 ]; do
  case $1 in
    --output | --top)
      [ -n "${2:-}" ] || die "$1 needs a value; see --help."
      declare "${1#--}=$2"
      shift 2
      ;;
    --lines)
      report+=(--lines)
      shift
      ;;
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
find_server
sample_while "$output"
script_of "$output"
python3 "$STACKS" "${report[@]}" --top "$top" "$SCRATCH/script" "$SCRATCH/folded" || exit 2
echo
[ -z "$MESSAGES" ] || echo "messages: $MESSAGES echoed meanwhile"
echo "samples:  $output"
