#!/usr/bin/env bash
# Runs two WebSocket clients that others wrote against the echo: Python's websockets and Node's ws.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/clients.sh [--url URL | --binary PATH]

Checks the echo with Python's websockets and Node's ws: every length form, fragments, ping and pong,
100 connections at once, close codes both ways, the message limit and text that is not UTF-8. Then the
same against a server that compresses, with every combination of the parameters of permessage-deflate
that these clients can offer. Prints one line a check and 'N passed, N failed'.

  --url URL      test the echo at URL (ws://127.0.0.1:PORT/) instead of starting a server; what
                 clients see when the server stops, and compression, are then not checked
  --binary PATH  start PATH instead of building and starting target/release/ringwire
  --help         this text

The clients are pinned and go into .cache/clients. Exit status: 0 all checks passed, 1 a check
failed, 2 the test could not be run.
END
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"

url=""
binary=""
while [ $# -gt 0 ]; do
  case $1 in
    --url | --binary)
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
[ -z "$url" ] || [ -z "$binary" ] || die "--url and --binary exclude each other."
case $url in '' | ws://*) ;; *) die "--url takes ws://HOST:PORT/, not '$url'." ;; esac

prepare
require_node 18
command -v python3 >/dev/null || install_packages python3
python3 -c 'import ensurepip' 2>/dev/null || install_packages python3-venv

cache=$ROOT/.cache/clients
install_node_packages "$ROOT/scripts/clients" "$cache"
# Node finds packages from the folder of the file that imports them.
cp "$ROOT/scripts/clients/client.mjs" "$cache/client.mjs"
if ! cmp -s "$ROOT/scripts/clients/requirements.txt" "$cache/venv/requirements.txt"; then
  echo "installing the Python packages of scripts/clients" >&2
  rm -rf "$cache/venv"
  {
    python3 -m venv "$cache/venv" &&
      "$cache/venv/bin/pip" install -q --disable-pip-version-check --no-deps \
        -r "$ROOT/scripts/clients/requirements.txt"
  } >"$SCRATCH/pip.log" 2>&1 || {
    tail -n 20 "$SCRATCH/pip.log" >&2
    die "the Python environment could not be made in $cache/venv; the last lines stand above."
  }
  cp "$ROOT/scripts/clients/requirements.txt" "$cache/venv/requirements.txt"
fi
python_client=("$cache/venv/bin/python" "$ROOT/scripts/clients/client.py")
node_client=(node "$cache/client.mjs")

if [ -z "$url" ]; then
  server_start "$binary"
  url=$SERVER_URL
fi
check "python websockets: " 180 "${python_client[@]}" "$url"
check "node ws: " 180 "${node_client[@]}" "$url"

# Servers that compress, each message for itself and with context.
if [ -n "$SERVER_PID" ]; then
  server_stop
  for takeover in "" with; do
    options=(--compress)
    [ -z "$takeover" ] || options+=(--compress-context-takeover --inflate-context-takeover)
    server_start "$binary" "${options[@]}"
    label=${takeover:+with context, }
    check "${label}python websockets: " 240 "${python_client[@]}" "$SERVER_URL" --compress
    check "${label}node ws: " 240 "${node_client[@]}" "$SERVER_URL" --compress
    server_stop
  done
  server_start "$binary"
  url=$SERVER_URL
fi

# Two clients that stay connected while the server stops: they have to be told so.
await_ready() {
  local deadline=$((SECONDS + 10))
  until grep -qx ready "$2"; do
    if ! kill -0 "$1" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
      return 1
    fi
    sleep 0.05
  done
}

if [ -n "$SERVER_PID" ]; then
  : >"$SCRATCH/python.stop"
  : >"$SCRATCH/node.stop"
  "${python_client[@]}" "$url" --stop >"$SCRATCH/python.stop" &
  BACKGROUND_PIDS+=($!)
  "${node_client[@]}" "$url" --stop >"$SCRATCH/node.stop" &
  BACKGROUND_PIDS+=($!)
  for index in 0 1; do
    results=$SCRATCH/python.stop
    [ "$index" -eq 0 ] || results=$SCRATCH/node.stop
    # The plan below turns silence into a failure, so nothing more is said here.
    await_ready "${BACKGROUND_PIDS[$index]}" "$results" || true
  done
  server_stop
  for pid in "${BACKGROUND_PIDS[@]}"; do
    gone "$pid" 15 || end "$pid"
  done
  BACKGROUND_PIDS=()
  plan "$SCRATCH/plan" "${python_client[@]}" "$url" --stop
  tally "python websockets: " "$SCRATCH/plan" "$SCRATCH/python.stop"
  plan "$SCRATCH/plan" "${node_client[@]}" "$url" --stop
  tally "node ws: " "$SCRATCH/plan" "$SCRATCH/node.stop"
fi
finish
