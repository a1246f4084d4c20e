#!/usr/bin/env bash
# Draws where the server spends its processor time, from main to the innermost function, as an SVG.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/flamegraph.sh [--pid PID | --drive | --input FILE] [--seconds N] [--url URL]
                             [--output FILE] [--title TEXT] [--frequency HZ]
                             [--call-graph fp|dwarf] [-- LOADGEN-ARGUMENT...]

Samples the server as scripts/perf-record.sh does, or takes what that one has recorded, and draws a
flame graph: a box is a function, as wide as its share of the time, upon the one that called it.
Functions that the compiler put into others have boxes of their own. All shards are drawn as one.
Open it in a browser: a click makes a box as wide as the page, and there is a search.

  --output FILE   where the graph goes (default: target/profile/flamegraph.svg)
  --input FILE    draw the samples in FILE, by scripts/perf-record.sh or perf record -g. The programs
                  that were sampled have to be where they were then
  --title TEXT    what stands above it
END
  sampling_usage
  common_usage
  cat <<'END'

The graph is drawn by inferno from crates.io, which is built into .cache/inferno the first time. A
server without cargo records with scripts/perf-record.sh. Exit status: 0 drawn, 2 not.
END
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"
# shellcheck source=SCRIPTDIR/loadgen/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/loadgen/lib.sh"
# shellcheck source=SCRIPTDIR/lib/profile.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/profile.sh"

output=$PROFILE_OUT/flamegraph.svg
input=""
title=""
while [ $# -gt 0 ]; do
  case $1 in
    --output | --input | --title)
      [ -n "${2:-}" ] || die "$1 needs a value; see --help."
      declare "${1#--}=$2"
      shift 2
      ;;
    *)
      sampling_option "$@"
      shift "$TAKEN"
      ;;
  esac
done
check_options
check_sampling
if [ -n "$input" ]; then
  [ -z "$pid$url$drive" ] || die "--input has the samples: leave out --pid, --url and --drive."
  [ -r "$input" ] || die "$input cannot be read."
fi

prepare
require_perf
require_python
require_writable "$output"
require_inferno
if [ -z "$input" ]; then
  input=$SCRATCH/perf.data
  find_server
  sample_while "$input"
fi
script_of "$input"
python3 "$STACKS" oncpu "$SCRATCH/script" "$SCRATCH/folded" >"$SCRATCH/tables" || exit 2
read -r summary <"$SCRATCH/tables"
draw "$output" "${title:-ringwire on the processor}" "$summary" rust samples
echo "$summary"
[ -z "$MESSAGES" ] || echo "messages: $MESSAGES echoed meanwhile"
echo "graph:    $output"
