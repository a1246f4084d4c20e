#!/usr/bin/env bash
# Runs the server behind HAProxy and nginx, with their usual settings.
set -euo pipefail

usage() {
  cat <<'EOF'
Usage: scripts/proxies.sh [--idle SECONDS] [--binary PATH]

Starts a server, HAProxy before it with the PROXY protocol, version 2, and nginx before it with
X-Forwarded-For. Checks through both: echoes, that limits by address see the client and not the proxy,
that a connection nobody uses outlasts the proxies' timeouts (50 s of HAProxy, 60 s of nginx), that a
reload of the proxy drops nobody; that HAProxy's checks find the server up, by TCP and by HTTP; and
that nginx without its two lines for WebSocket gets to know them. Prints one line a check and 'N passed,
N failed'.

  --idle SECONDS  how long connections are idle (default 90)
  --binary PATH   start PATH instead of building and starting target/release/ringwire
  --help          this text

It installs haproxy, nginx and python3 where they are missing. Exit status: 0 all checks passed, 1 a
check failed, 2 the test could not be run.
EOF
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"

idle=90
binary=""
while [ $# -gt 0 ]; do
  case $1 in
    --idle | --binary)
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
[[ $idle =~ ^[0-9]+$ ]] || die "--idle takes seconds, not '$idle'."

prepare
command -v python3 >/dev/null || install_packages python3
# Debian has them where only root looks.
PATH=$PATH:/usr/sbin:/sbin
command -v haproxy >/dev/null || install_packages haproxy
command -v nginx >/dev/null || install_packages nginx-light

cat >"$SCRATCH/ringwire.toml" <<EOF
proxy_protocol_from = "127.0.0.2"
forwarded_from = "127.0.0.3"
address_connections_max = 4

[[route]]
path = "/"

[[route]]
path = "/healthz"
application = "health"
EOF
server_start "$binary" --config "$SCRATCH/ringwire.toml"
port=${SERVER_URL##*:}
check "" $((idle + 60)) python3 "$ROOT/scripts/proxies/check.py" --server "127.0.0.1:${port%/}" \
  --folder "$SCRATCH" --idle "$idle"
server_stop
finish
