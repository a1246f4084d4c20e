#!/usr/bin/env bash
# What the sandbox costs: CPU of the server for a message, with it and without.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/bench-sandbox.sh [--rounds N] [--seconds N] [--loadgen PATH] [--binary PATH]
                                [--json FILE]

Runs an echo of one shard on processor 0, in turns with sandbox = off and on, on io_uring and on
epoll, driven by loadgen on processor 1: a closed loop of one connection (the most system calls for
a message) and of 64. What is compared is the server's CPU time for a message; the median over the
rounds is printed. The machine should have nothing else to do.

  --rounds N      how many rounds (default 7)
  --seconds N     how long each run measures (default 1)
  --loadgen PATH, --binary PATH
                  programs to use instead of building them
  --json FILE     writes every figure there as well
  --help          this text

Exit status: 0 it costs no more than 5 % anywhere, 1 it costs more, 2 the comparison could not be
run.
END
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"
# shellcheck source=SCRIPTDIR/loadgen/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/loadgen/lib.sh"

rounds=7
seconds=1
loadgen=""
binary=""
json=""
while [ $# -gt 0 ]; do
  case $1 in
    --rounds | --seconds | --loadgen | --binary | --json)
      [ -n "${2:-}" ] || die "$1 needs a value; see --help."
      declare "${1#--}=$2"
      shift 2
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
if [ -z "$binary" ]; then
  (cd "$ROOT" && cargo build --release --locked --bin ringwire >&2) || die "cargo build failed."
  binary=$TARGET/release/ringwire
fi
warn_if_busy
figures=$SCRATCH/figures
: >"$figures"

# drive SANDBOX RING CONNECTIONS: one run of loadgen, and a line of the figures.
drive() {
  local status=0
  taskset -c 1 "$loadgen" echo "$PEER_URL" --connections "$3" --pid "$PEER_PID" --quiet --shards 1 \
    --warmup 300ms --duration "${seconds}s" --allow-client-bound --json "$SCRATCH/run.json" \
    >"$SCRATCH/run.out" 2>&1 || status=$?
  if [ "$status" -ne 0 ]; then
    tail -n 20 "$SCRATCH/run.out" >&2
    die "loadgen ended with status $status; its words stand above."
  fi
  python3 - "$SCRATCH/run.json" "$@" >>"$figures" <<'END'
import json, sys
run = json.load(open(sys.argv[1]))
print(*sys.argv[2:], run["server"]["cpu_ns_per_message"])
END
}

for round in $(seq "$rounds"); do
  echo "round $round of $rounds" >&2
  both=(off on)
  [ $((round % 2)) -eq 1 ] || both=(on off)
  for ring in uring epoll; do
    for sandbox in "${both[@]}"; do
      peer_start taskset -c 0 "$binary" serve --listen 127.0.0.1:0 --shards 1 --no-pin --log error \
        --ring "$ring" --sandbox "$sandbox"
      for connections in 1 64; do
        drive "$sandbox" "$ring" "$connections"
      done
      peer_stop "$PEER_PID"
    done
  done
done

python3 - "$figures" "${json:-/dev/null}" <<'END'
import json, statistics, sys
runs = {}
for line in open(sys.argv[1]):
    sandbox, ring, connections, cpu_ns = line.split()
    runs.setdefault(f"{ring}, {connections}", {}).setdefault(sandbox, []).append(float(cpu_ns))
print(f"\n{'':12} {'off':>8} {'on':>8}  us of the server's CPU for a message, medians; ratios by round")
dear = []
for what, both in runs.items():
    off, on = (statistics.median(both[name]) for name in ("off", "on"))
    # Of neighbours in time: a machine has slow minutes.
    ratios = sorted(after / before for before, after in zip(both["off"], both["on"]))
    ratio = statistics.median(ratios)
    print(f"{what:12} {off / 1e3:8.3f} {on / 1e3:8.3f} {ratio:6.3f}  ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    if ratio > 1.05:
        dear.append(what)
json.dump(runs, open(sys.argv[2], "w"), indent=1)
if dear:
    sys.exit("the sandbox costs more than 5 %: " + "; ".join(dear))
END
