#!/usr/bin/env bash
# Measures the resident memory of an idle connection, and fails above a limit.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/idle-memory.sh [--connections N] [--bytes-max BYTES] [--compress] [--tls]
                              [--engine shard|async] [--ring auto|uring|epoll] [--binary PATH]

Starts a server, opens N connections that each echo one message and are idle then, all of them in
one burst, and prints the server's resident memory before and after, and what each of them has cost:
the buffers that the burst needed are in it. Then 1000 more, to show what a connection costs once
those buffers are there. What is read is VmRSS of /proc/PID/status: all resident pages of the
process, its files' pages among them. What the kernel keeps for a socket is not in it.

  --connections N    default 10000; both sides need 1064 descriptors more than that (ulimit -Hn)
  --bytes-max BYTES  the most a connection may cost (default 512; 576 with --compress: what the
                     connections share to compress with is in it; 6144 with --tls; with --engine async
                     2048, or 8192 with --tls)
  --compress         the server compresses: every connection's message goes both ways compressed
  --binary PATH      start PATH instead of building and starting target/release/ringwire
  --engine NAME      what serves (default shard)
  --ring NAME        what shards run on (default auto)
  --tls              over wss://, with a certificate that openssl makes
  --help             this text

Of the 1000 more, each may cost 256 bytes on shards without TLS and compression, whatever --bytes-max.

Exit status: 0 within the limits, 1 above one, 2 the measurement could not be made.
END
}

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Connections that come when the buffers are there.
FURTHER=1000
# What each of those may cost where there is neither TLS nor compression nor a task.
FURTHER_BYTES_MAX=256
# Descriptors that a process has beside its connections.
DESCRIPTORS_SPARE=64
TIMEOUT_S=120

die() {
  echo "idle-memory.sh: $*" >&2
  exit 2
}

connections=10000
bytes_max=""
binary=""
engine=shard
ring=auto
serve=()
tls=""
while [ $# -gt 0 ]; do
  case $1 in
    --connections | --bytes-max | --binary | --engine | --ring)
      [ -n "${2:-}" ] || die "$1 needs a value; see --help."
      name=${1#--}
      declare "${name//-/_}=$2"
      shift 2
      ;;
    --compress)
      serve+=("$1")
      shift
      ;;
    --tls)
      tls=yes
      shift
      ;;
    --help | -h)
      usage
      exit
      ;;
    *) die "unknown argument '$1'; see --help." ;;
  esac
done
if [ -z "$bytes_max" ]; then
  bytes_max=512
  [ ${#serve[@]} -eq 0 ] || bytes_max=576
  [ -z "$tls" ] || bytes_max=6144
  if [ "$engine" = async ]; then
    bytes_max=2048
    [ -z "$tls" ] || bytes_max=8192
  fi
fi
[[ $connections =~ ^[1-9][0-9]*$ ]] || die "--connections takes a number from 1 up, not '$connections'."
[[ $bytes_max =~ ^[0-9]+$ ]] || die "--bytes-max takes a number of bytes, not '$bytes_max'."
limit=$(ulimit -Hn)
needed=$((FURTHER + connections + DESCRIPTORS_SPARE))
if [ "$limit" != unlimited ] && [ "$limit" -lt $needed ]; then
  die "$connections connections need $needed descriptors, and ulimit -Hn is $limit."
fi

target=${CARGO_TARGET_DIR:-$ROOT/target}
cargo build --quiet --release --manifest-path "$ROOT/Cargo.toml" --example idle_clients
if [ -z "$binary" ]; then
  cargo build --quiet --release --manifest-path "$ROOT/Cargo.toml" --bin ringwire
  binary=$target/release/ringwire
fi
clients=$target/release/examples/idle_clients

scratch=$(mktemp -d)
pids=()
# shellcheck disable=SC2329 # called by the trap
cleanup() {
  local pid
  for pid in "${pids[@]}"; do
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  rm -rf "$scratch"
}
trap cleanup EXIT

# wait_for PID FILE PATTERN: until PATTERN is in FILE, which PID writes.
wait_for() {
  local deadline=$((SECONDS + TIMEOUT_S))
  until grep -q "$3" "$2"; do
    if ! kill -0 "$1" 2>/dev/null; then
      cat "$scratch"/*.log >&2
      die "process $1 ended early; its last words stand above."
    fi
    [ $SECONDS -lt $deadline ] || die "no '$3' within $TIMEOUT_S s."
    sleep 0.05
  done
}

resident_kib() {
  awk '/^VmRSS:/ { print $2 }' "/proc/$server_pid/status"
}

# The second of two equal readings: whatever was still going on is over.
settled_kib() {
  local last now deadline=$((SECONDS + TIMEOUT_S))
  last=$(resident_kib)
  while [ $SECONDS -lt $deadline ]; do
    sleep 0.2
    now=$(resident_kib)
    if [ "$now" = "$last" ]; then
      echo "$now"
      return
    fi
    last=$now
  done
  die "the server's memory does not come to rest."
}

# open_clients N NAME: in the background, until they are killed. Returns once all
# of them are idle.
open_clients() {
  mkfifo "$scratch/$2.input"
  : >"$scratch/$2.idle"
  "$clients" "$url" "$1" <"$scratch/$2.input" >"$scratch/$2.idle" 2>"$scratch/$2.log" &
  local pid=$! input
  pids+=("$pid")
  # shellcheck disable=SC2034 # nothing is written: it is closed when this script ends
  # Their input stays open for as long as this script runs.
  exec {input}>"$scratch/$2.input"
  wait_for $pid "$scratch/$2.idle" idle
}

: >"$scratch/address"
listen=(--listen 127.0.0.1:0)
if [ -n "$tls" ]; then
  # shellcheck source=SCRIPTDIR/lib/certificates.sh disable=SC1091
  source "$ROOT/scripts/lib/certificates.sh"
  { authority "$scratch/pem" && certificate "$scratch/pem" server /CN=localhost; } ||
    die "the certificates could not be made; openssl's words stand above."
  listen=(--tls-listen 127.0.0.1:0 --tls-cert "$scratch/pem/server.pem" --tls-key "$scratch/pem/server.key")
fi
"$binary" serve "${listen[@]}" "${serve[@]}" --engine "$engine" --ring "$ring" >"$scratch/address" 2>"$scratch/server.log" &
server_pid=$!
pids+=("$server_pid")
wait_for $server_pid "$scratch/address" "wss\?://.*"
url=$(sed -n 's/^ *\(wss\?:.*\)$/\1/p' "$scratch/address" | head -n 1)

before=$(settled_kib)
open_clients "$connections" idle
after=$(settled_kib)
open_clients $FURTHER further
last=$(settled_kib)

bytes=$(((after - before) * 1024 / connections))
further_bytes=$(((last - after) * 1024 / FURTHER))
further_bytes_max=$bytes_max
if [ "$engine" = shard ] && [ -z "$tls" ] && [ ${#serve[@]} -eq 0 ]; then
  further_bytes_max=$FURTHER_BYTES_MAX
fi
echo "VmRSS before:      $before KiB"
echo "VmRSS after:       $after KiB, with $connections idle connections"
echo "each of those:     $bytes B (at most $bytes_max)"
echo "VmRSS at the end:  $last KiB, with $FURTHER more, of $further_bytes B each (at most $further_bytes_max)"
[ "$bytes" -le "$bytes_max" ] && [ "$further_bytes" -le "$further_bytes_max" ]
