#!/usr/bin/env bash
# One message to many on ringwire beside Bun, Node's ws, and a floor without any protocol.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/bench-fanout.sh [--rounds N] [--deliveries N] [--subscribers N] [--binary PATH]
                               [--floor PATH]

Publishes messages of 125 bytes to one topic, one at a time and 16 in flight, and reads what all of
its subscribers get: from ringwire, Bun, Node's ws, and a floor that writes the same bytes to each
socket of ringwire's ring without any protocol. The server is on processor 0 and what drives it on
processor 1, all servers in turn. Prints a table: processor time of the server's process for each
delivery, with the kernel's for it, deliveries a second, and the time until the last one has its
message, each the median of the rounds, and the ratio of the first to ringwire's with its least and
greatest.

  --rounds N       how often each is measured, all of them in turn (default 5)
  --deliveries N   deliveries of each measurement (default 300000)
  --subscribers N  who subscribes (default 1000)
  --binary PATH    use PATH as the ringwire server instead of building it
  --floor PATH     use PATH as the floor instead of building it
  --help           this text

ws and Bun are pinned and go into .cache/loadgen. Exit status: 0 ringwire takes at most 0.9 of Bun's
processor time one at a time and 1.1 of the floor's, 1 it takes more, 2 the measurement could not be
made.
END
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"
# shellcheck source=SCRIPTDIR/loadgen/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/loadgen/lib.sh"

rounds=5
deliveries=300000
subscribers=1000
binary=""
floor=""
while [ $# -gt 0 ]; do
  case $1 in
    --rounds | --deliveries | --subscribers | --binary | --floor)
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
require_node 18
require_two_processors
command -v python3 >/dev/null || install_packages python3
if [ -z "$binary" ]; then
  (cd "$ROOT" && cargo build --release --locked --bin ringwire >&2) ||
    die "cargo build --release --bin ringwire failed; the compiler's words stand above."
  binary=$TARGET/release/ringwire
fi
if [ -z "$floor" ]; then
  peers=(--manifest-path "$ROOT/benches/peers/Cargo.toml" --no-default-features)
  (cd "$ROOT" && cargo build --release --locked "${peers[@]}" --bin floor_ring >&2) ||
    die "the floor of benches/peers does not build; the compiler's words stand above."
  floor=$ROOT/benches/peers/target/release/floor_ring
fi
install_node_packages "$ROOT/scripts/loadgen/peers" "$CACHE/peers"
cp "$ROOT"/scripts/loadgen/peers/server*.mjs "$CACHE/peers/"
warn_if_busy

cat >"$SCRATCH/topics.toml" <<'END'
listen = "127.0.0.1:0"
shards = 1
pin = false
[[route]]
path = "/{topic}"
application = "topics"
END

# start NAME: one of the servers.
start() {
  local server=(taskset -c 0)
  case $1 in
    ringwire) server+=("$binary" serve --config "$SCRATCH/topics.toml") ;;
    Bun) server+=("$(bun_binary)" "$CACHE/peers/server.bun.mjs" --topics) ;;
    ws) server+=(node "$CACHE/peers/server.mjs" --topics) ;;
    floor) server+=("$floor" --fan) ;;
  esac
  peer_start "${server[@]}"
}

results=$SCRATCH/results.jsonl
: >"$results"
for ((round = 0; round < rounds; round++)); do
  for name in ringwire Bun ws floor; do
    start "$name"
    for in_flight in 1 16; do
      count=$((deliveries / subscribers / in_flight))
      taskset -c 1 python3 "$ROOT/scripts/loadgen/fan.py" "${PEER_URL}all" "$PEER_PID" \
        "$subscribers" 125 "$in_flight" "$((count > 0 ? count : 1))" \
        >"$SCRATCH/run.json" 2>"$SCRATCH/run.err" || {
        tail -n 20 "$SCRATCH/run.err" >&2
        die "$name was not measured; the last words stand above."
      }
      sed "s/^{/{\"name\": \"$name\", \"in_flight\": $in_flight, /" "$SCRATCH/run.json" >>"$results"
    done
    peer_stop "$PEER_PID"
  done
done

python3 - "$results" "$subscribers" <<'END'
import json, statistics, sys
runs = [json.loads(line) for line in open(sys.argv[1])]
def of(field, name, in_flight):
    return [run[field] for run in runs if (run["name"], run["in_flight"]) == (name, in_flight)]
bounds, missed = {("Bun", 1): 1 / 0.9, ("floor", 1): 1 / 1.1}, 0
for in_flight, title in [(1, "one at a time"), (16, "16 in flight")]:
    print(f"\n1 to {sys.argv[2]}, 125 B, {title}")
    print(f"{'':10} {'CPU us/delivery':>16} {'deliveries/s':>13} {'last, ms':>9}  to ringwire")
    ours = of("cpu_us", "ringwire", in_flight)
    for name in dict.fromkeys(run["name"] for run in runs):
        cost, rate, last = (of(field, name, in_flight) for field in ("cpu_us", "per_s", "last_ms"))
        ratios = sorted(theirs / our for theirs, our in zip(cost, ours))
        ratio = statistics.median(ratios)
        compared = "-" if name == "ringwire" else f"{ratio:.2f} ({ratios[0]:.2f}..{ratios[-1]:.2f})"
        cost, rate, last = map(statistics.median, (cost, rate, last))
        print(f"{name:10} {cost:16.3f} {rate:13.0f} {last:9.2f}  {compared}")
        if ratio < bounds.get((name, in_flight), 0):
            missed += 1
            print(f"that is less than {bounds[name, in_flight]:.2f}")
sys.exit(1 if missed else 0)
END
