#!/usr/bin/env bash
# CPU of the server for a message and for a handshake over TLS, beside Bun.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/bench-tls.sh [--rounds N] [--seconds N] [--sizes LIST] [--loadgen PATH]
                            [--binary PATH] [--json FILE]

Runs an echo over TLS on processor 0, ringwire with one shard and Bun in turns, driven by loadgen on
processor 1: closed loop, with messages of several sizes; and then opens connections, with full
handshakes (a key of P-256, and RSA of 2048 bits) and with resumed ones. What is compared is the
server's CPU time for a message, or for a connection from its TLS handshake to its end; the median
over the rounds is printed. The same certificates are used by both. The machine should have nothing
else to do.

  --rounds N      how many rounds (default 5)
  --seconds N     how long each run measures (default 1.5)
  --sizes LIST    bytes:connections pairs (default 64:64,1k:64,16k:64,256k:8)
  --loadgen PATH, --binary PATH
                  programs to use instead of building them
  --json FILE     writes every figure there as well
  --help          this text

Exit status: 0 ringwire is not behind in any (by more than 5 %), 1 it is, 2 the comparison could not
be run.
END
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"
# shellcheck source=SCRIPTDIR/loadgen/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/loadgen/lib.sh"
# shellcheck source=SCRIPTDIR/lib/certificates.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/certificates.sh"

rounds=5
seconds=1.5
sizes=64:64,1k:64,16k:64,256k:8
loadgen=""
binary=""
json=""
while [ $# -gt 0 ]; do
  case $1 in
    --rounds | --seconds | --sizes | --loadgen | --binary | --json)
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
require_node 18
command -v python3 >/dev/null || install_packages python3
command -v openssl >/dev/null || install_packages openssl
loadgen=$(loadgen_binary "$loadgen")
if [ -z "$binary" ]; then
  (cd "$ROOT" && cargo build --release --locked --bin ringwire >&2) || die "cargo build failed."
  binary=$TARGET/release/ringwire
fi
install_node_packages "$ROOT/scripts/loadgen/peers" "$CACHE/peers"
cp "$ROOT"/scripts/loadgen/peers/server*.mjs "$CACHE/peers/"

pem=$SCRATCH/certificates
authority "$pem" || die "the certificates could not be made; openssl's words stand above."
certificate "$pem" p256 /CN=localhost || die "no certificate."
certificate "$pem" rsa /CN=localhost -newkey rsa:2048 || die "no certificate."

warn_if_busy
figures=$SCRATCH/figures
: >"$figures"

# start SERVER KEY: starts one of the two.
start() {
  case $1 in
    ringwire)
      peer_start taskset -c 0 "$binary" serve --tls-listen 127.0.0.1:0 --shards 1 --no-pin \
        --tls-cert "$pem/$2.pem" --tls-key "$pem/$2.key" --log warn
      ;;
    Bun) peer_start taskset -c 0 "$(bun_binary)" "$CACHE/peers/server.bun.mjs" "$pem/$2.pem" "$pem/$2.key" ;;
  esac
}

# drive SERVER WHAT ARGUMENT...: one run of loadgen against the server at PEER_URL, and a line of
# the figures: the server's CPU time for each message or connection, and how many there were.
drive() {
  local server=$1 what=$2 status=0
  shift 2
  # Polling would take the processor's time from nobody, but its caches are shared.
  taskset -c 1 "$loadgen" "$@" --pid "$PEER_PID" --quiet --shards 1 --ca "$pem/authority.pem" \
    --warmup 300ms --duration "${seconds}s" --allow-client-bound --json "$SCRATCH/run.json" \
    >"$SCRATCH/run.out" 2>&1 || status=$?
  if [ "$status" -ne 0 ]; then
    tail -n 20 "$SCRATCH/run.out" >&2
    die "loadgen ended with status $status; its words stand above."
  fi
  python3 - "$SCRATCH/run.json" "$server" "$what" >>"$figures" <<'END'
import json, sys
run = json.load(open(sys.argv[1]))
count = run["messages"]["received"]
opened, resumed = (run["connections"][name] for name in ("opened", "resumed"))
if sys.argv[3].endswith("-resumed"):
    assert resumed > 0.95 * opened, f"only {resumed} of {opened} connections were resumed"
else:
    assert resumed == 0 or run["scenario"] == "echo", f"{resumed} connections were resumed"
print(sys.argv[2], sys.argv[3], run["server"]["cpu_ns_per_message"], count * 1e3 / run["times"]["measured_ms"])
END
  tail -n 1 "$figures" | awk '{ printf "  %-9s %-16s %10.2f us of CPU  %10.0f/s\n", $1, $2, $3 / 1e3, $4 }' >&2
}

for round in $(seq "$rounds"); do
  echo "round $round of $rounds" >&2
  servers=(ringwire Bun)
  [ $((round % 2)) -eq 1 ] || servers=(Bun ringwire)
  for server in "${servers[@]}"; do
    start "$server" p256
    for pair in ${sizes//,/ }; do
      drive "$server" "${pair%:*}" echo "$PEER_URL" --connections "${pair#*:}" --size "${pair%:*}" --binary
    done
    drive "$server" p256-full connect "$PEER_URL" --no-resumption
    # A client keeps eight tickets for a server (rustls): more at one time would find none.
    drive "$server" p256-resumed connect "$PEER_URL" --in-flight 8
    peer_stop "$PEER_PID"
    start "$server" rsa
    drive "$server" rsa2048-full connect "$PEER_URL" --no-resumption
    peer_stop "$PEER_PID"
  done
done

python3 - "$figures" "${json:-/dev/null}" <<'END'
import json, statistics, sys
runs = {}
for line in open(sys.argv[1]):
    server, what, cpu_ns, rate = line.split()
    runs.setdefault(what, {}).setdefault(server, []).append((float(cpu_ns), float(rate)))
behind = []
rounds = len(next(iter(runs.values()))["ringwire"])
print(f"\nMedian of {rounds}:     us of the server's CPU             a second, as far as loadgen goes")
print(f"{'':16} {'ringwire':>10} {'Bun':>10} {'ratio':>6} {'ringwire':>12} {'Bun':>10}")
for what, servers in runs.items():
    cpu, rate = (
        {name: statistics.median(run[at] for run in found) for name, found in servers.items()}
        for at in (0, 1)
    )
    ratio = cpu["ringwire"] / cpu["Bun"]
    print(
        f"{what:16} {cpu['ringwire'] / 1e3:10.2f} {cpu['Bun'] / 1e3:10.2f} {ratio:6.2f}"
        f" {rate['ringwire']:12,.0f} {rate['Bun']:10,.0f}"
    )
    if ratio > 1.05:
        behind.append(what)
json.dump(runs, open(sys.argv[2], "w"), indent=1)
if behind:
    sys.exit("ringwire is behind: " + ", ".join(behind))
END
