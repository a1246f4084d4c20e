#!/usr/bin/env bash
# How much of what a client can do loadgen does: against a client that only counts bytes, and
# against artillery.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/loadgen-baseline.sh [--rounds N] [--seconds N] [--without-artillery]
                                   [--loadgen PATH] [--bare PATH] [--binary PATH]

Drives ringwire (one shard, processor 0) from processor 1 with loadgen, which stamps and verifies,
with bare_epoll, which only counts bytes, and with artillery from npm: closed loop, 64 connections,
one message of 64 B or 16 KiB in flight each. The tools take turns in every round, artillery in
every third; what is compared is the median over the rounds of the ratio to the neighbour. Fails
when loadgen reaches less than 0.9 of bare_epoll or less than ten times artillery. The machine
should have nothing else to do.

  --rounds N           how many rounds (default 7)
  --seconds N          how long each run measures (default 1)
  --without-artillery  leave artillery out: it takes 600 MB and half a minute a run
  --loadgen PATH, --bare PATH, --binary PATH
                       programs to use instead of building them
  --help               this text

Exit status: 0 both goals reached, 1 one was missed, 2 the comparison could not be run.
END
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"
# shellcheck source=SCRIPTDIR/loadgen/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/loadgen/lib.sh"

rounds=7
seconds=1
artillery=yes
loadgen=""
bare=""
binary=""
while [ $# -gt 0 ]; do
  case $1 in
    --rounds | --seconds | --loadgen | --bare | --binary)
      [ -n "${2:-}" ] || die "$1 needs a value; see --help."
      declare "${1#--}=$2"
      shift 2
      ;;
    --without-artillery)
      artillery=""
      shift
      ;;
    --help | -h)
      usage
      exit
      ;;
    *) die "unknown argument '$1'; see --help." ;;
  esac
done

prepare
require_two_processors
command -v python3 >/dev/null || install_packages python3
loadgen=$(loadgen_binary "$loadgen")
[ -n "$bare" ] || bare=$(example_binary loadgen bare_epoll)
if [ -z "$binary" ]; then
  (cd "$ROOT" && cargo build --release --locked --bin ringwire >&2) || die "cargo build failed."
  binary=$TARGET/release/ringwire
fi

# Artillery has 900 packages, so that a lock file would be longer than loadgen; its own version is
# pinned, and the comparison is one of magnitudes.
install_artillery() {
  local folder=$CACHE/artillery
  mkdir -p "$folder"
  if ! cmp -s "$ROOT/scripts/loadgen/artillery/package.json" "$folder/installed.json"; then
    echo "installing artillery (939 packages)" >&2
    cp "$ROOT/scripts/loadgen/artillery/package.json" "$folder/package.json"
    (cd "$folder" && npm install --ignore-scripts --no-audit --no-fund --no-package-lock) \
      >"$SCRATCH/npm.log" 2>&1 || {
      tail -n 20 "$SCRATCH/npm.log" >&2
      die "npm install artillery failed; its last lines stand above."
    }
    cp "$folder/package.json" "$folder/installed.json"
  fi
}
if [ -n "$artillery" ]; then
  require_node 18
  install_artillery
fi

figures=$SCRATCH/figures
: >"$figures"

# note TOOL SIZE RATE CPU_NS: one line of the figures.
note() {
  echo "$*" >>"$figures"
  printf '  round %s  %-10s %6s B  %10.0f/s  %8.0f ns of CPU a message\n' \
    "$round" "$1" "$2" "$3" "$4" >&2
}

run_loadgen() {
  local status=0
  taskset -c 1 "$loadgen" echo "$PEER_URL" --quiet --connections 64 --size "$1" --binary \
    --shards 1 --warmup 300ms --duration "${seconds}s" --allow-client-bound \
    --json "$SCRATCH/run.json" >"$SCRATCH/run.out" 2>&1 || status=$?
  if [ "$status" -ne 0 ]; then
    tail -n 20 "$SCRATCH/run.out" >&2
    die "loadgen ended with status $status; its words stand above."
  fi
  # shellcheck disable=SC2046
  note loadgen "$1" $(python3 -c '
import json, sys
run = json.load(open(sys.argv[1]))
print(run["messages"]["received"] * 1e3 / run["times"]["measured_ms"],
      run["client"]["cpu_ns_per_message"])' "$SCRATCH/run.json")
}

run_bare() {
  taskset -c 1 "$bare" "$(echo "$PEER_URL" | cut -d/ -f3)" --connections 64 --size "$1" \
    --warmup 0.3 --duration "$seconds" >"$SCRATCH/bare.json" || die "bare_epoll failed."
  # shellcheck disable=SC2046
  note bare_epoll "$1" $(python3 -c '
import json, sys
run = json.load(open(sys.argv[1]))
print(run["rate_per_s"], run["cpu_ns_per_message"])' "$SCRATCH/bare.json")
}

run_artillery() {
  # About four seconds of it, of which the connections take one to come.
  local count=500
  sed "s|URL|$PEER_URL|; s|COUNT|$count|; s|MESSAGE|$(head -c "$1" /dev/zero | tr '\0' x)|" \
    "$ROOT/scripts/loadgen/artillery/echo.yml" >"$SCRATCH/echo.yml"
  (cd "$CACHE/artillery" &&
    ARTILLERY_DISABLE_TELEMETRY=true NO_UPDATE_NOTIFIER=1 taskset -c 1 timeout 180 \
      node_modules/.bin/artillery run --quiet -o "$SCRATCH/artillery.json" "$SCRATCH/echo.yml") \
    >"$SCRATCH/artillery.out" 2>&1 </dev/null || {
    tail -n 20 "$SCRATCH/artillery.out" >&2
    die "artillery failed; its words stand above."
  }
  # shellcheck disable=SC2046
  note artillery "$1" $(python3 -c '
import json, sys
run = json.load(open(sys.argv[1]))["aggregate"]
counters = run["counters"]
assert counters["vusers.failed"] == 0, counters
seconds = (run["lastCounterAt"] - run["firstCounterAt"]) / 1e3
rate = counters["websocket.messages_received"] / seconds
print(rate, 1e9 / rate)' "$SCRATCH/artillery.json")
}

warn_if_busy
for round in $(seq "$rounds"); do
  for size in 64 16384; do
    peer_start taskset -c 0 "$binary" serve --listen 127.0.0.1:0 --shards 1
    # Whoever comes first in a round comes second in the next.
    if [ $((round % 2)) -eq 1 ]; then
      run_loadgen "$size"
      run_bare "$size"
    else
      run_bare "$size"
      run_loadgen "$size"
    fi
    if [ -n "$artillery" ] && [ $((round % 3)) -eq 1 ]; then
      run_artillery "$size"
    fi
    peer_stop "$PEER_PID"
  done
done

python3 - "$figures" <<'END'
import collections, statistics, sys

rates = collections.defaultdict(list)
cpu = collections.defaultdict(list)
for line in open(sys.argv[1]):
    tool, size, rate, ns = line.split()
    rates[tool, int(size)].append(float(rate))
    cpu[tool, int(size)].append(float(ns))
missed = False
print(f"{'messages':>10}  {'tool':<10}  {'median rate':>12}  {'CPU/message':>11}  loadgen / tool")
for size in (64, 16384):
    own = rates["loadgen", size]
    for tool, goal in (("loadgen", None), ("bare_epoll", 0.9), ("artillery", 10)):
        if not rates[tool, size]:
            continue
        rate = statistics.median(rates[tool, size])
        ns = statistics.median(cpu[tool, size])
        row = f"{size:>8} B  {tool:<10}  {rate:>10,.0f}/s  {ns / 1e3:>8.2f} us"
        if goal is not None:
            others = rates[tool, size]
            if len(own) == len(others):
                # Of neighbours in time: the machine's own ups and downs cancel.
                ratio = statistics.median(a / b for a, b in zip(own, others))
            else:
                ratio = statistics.median(own) / rate
            reached = ratio >= goal
            missed |= not reached
            row += f"  {ratio:.2f} ({'reached' if reached else 'MISSED'}: {goal})"
        print(row)
sys.exit(missed)
END
