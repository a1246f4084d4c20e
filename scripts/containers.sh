#!/usr/bin/env bash
# Runs the server in a real container, with io_uring and without.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/containers.sh [--binary PATH] [--loadgen PATH] [--no-autobahn]

Starts the server in a container of podman's, whose root holds the binary and what it links and
nothing else: under the engine's default seccomp profile, under that profile without io_uring, as
Docker and containerd have it too, and under it with what 'ringwire doctor' says to add. Prints what
the server said it runs on and why, and holds it against 'loadgen echo' and the quick share of the
Autobahn|Testsuite.

  --binary PATH    run PATH instead of building and running target/release/ringwire
  --loadgen PATH   use PATH instead of building target/release/loadgen
  --no-autobahn    leave the Autobahn|Testsuite out
  --help           this text

It needs root and podman, which is installed where apt-get is. Exit status: 0 all went well, 1 the
server did something else, 2 no container could be run.
END
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"
# shellcheck source=SCRIPTDIR/loadgen/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/loadgen/lib.sh"

binary=""
loadgen=""
autobahn=yes
while [ $# -gt 0 ]; do
  case $1 in
    --binary | --loadgen)
      [ -n "${2:-}" ] || die "$1 needs a value; see --help."
      declare "${1#--}=$2"
      shift 2
      ;;
    --no-autobahn)
      autobahn=""
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
[ "$(id -u)" -eq 0 ] || die "run it as root: the container has the host's network."
command -v podman >/dev/null || install_packages podman crun
command -v python3 >/dev/null || install_packages python3
binary=$(trap - EXIT && server_binary "$binary") || exit
loadgen=$(trap - EXIT && loadgen_binary "$loadgen") || exit

# The binary, and the libraries and the loader that ldd(1) names.
rootfs=$SCRATCH/rootfs
mkdir -p "$rootfs"/{dev,proc,sys,tmp,etc}
cp "$binary" "$rootfs/ringwire"
ldd "$binary" | grep -o '/[^ ]*' | while read -r library; do
  mkdir -p "$rootfs$(dirname "$library")"
  cp -L "$library" "$rootfs$library"
done

# The engine's profile without io_uring, and with what ringwire doctor says to add to it.
python3 - "$SCRATCH/without.json" "$SCRATCH/with.json" <<'END' || die "podman's default seccomp profile is not where it should be."
import json, pathlib, sys

found = [
    path
    for path in ("/etc/containers/seccomp.json", "/usr/share/containers/seccomp.json")
    if pathlib.Path(path).exists()
]
profile = json.loads(pathlib.Path(found[0]).read_text())
for rule in profile["syscalls"]:
    rule["names"] = [name for name in rule["names"] if not name.startswith("io_uring_")]
profile["syscalls"] = [rule for rule in profile["syscalls"] if rule["names"]]
pathlib.Path(sys.argv[1]).write_text(json.dumps(profile))
calls = ["io_uring_setup", "io_uring_enter", "io_uring_register"]
profile["syscalls"].append({"names": calls, "action": "SCMP_ACT_ALLOW"})
pathlib.Path(sys.argv[2]).write_text(json.dumps(profile))
END

# podman's own limits are higher than some hosts let root set them.
printf '[containers]\ndefault_ulimits = []\n' >"$SCRATCH/containers.conf"
export CONTAINERS_CONF=$SCRATCH/containers.conf
container=ringwire-test-$$
failures=0

stop_container() {
  podman stop --time 10 "$container" >/dev/null 2>&1 || true
  podman rm --force "$container" >/dev/null 2>&1 || true
}
end_all() {
  local status=$?
  set +e
  stop_container
  (exit "$status")
  cleanup
}
trap end_all EXIT

indented() {
  sed 's/^/      /'
}

# in_container NAME EXPECTED OPTION...: the server serves in a container with these options, and says
# EXPECTED.
in_container() {
  local name=$1 expected=$2 url="" words wrong=""
  shift 2
  podman run --detach --name "$container" --cgroups=disabled --network host --ulimit host "$@" \
    --rootfs "$rootfs" /ringwire serve --listen 127.0.0.1:0 --compress \
    >"$SCRATCH/podman.log" 2>&1 || {
    cat "$SCRATCH/podman.log" >&2
    die "podman runs no container here; its words stand above."
  }
  for _ in $(seq 100); do
    words=$(podman logs "$container" 2>&1)
    url=$(grep -o 'ws://[0-9.:]*/' <<<"$words" | head -n 1) && break
    sleep 0.1
  done
  if [ -z "$url" ] || ! grep -q "$expected" <<<"$words"; then
    echo "FAIL  $name: expected '$expected'; the server said:"
    indented <<<"$words"
    failures=$((failures + 1))
    stop_container
    return
  fi
  if ! "$loadgen" echo "$url" --connections 8 --size 1,1k,100k --duration 1s \
    --allow-client-bound >"$SCRATCH/echo.log" 2>&1; then
    indented <"$SCRATCH/echo.log"
    wrong="$wrong, loadgen echo"
  fi
  if [ -n "$autobahn" ] && ! "$ROOT/scripts/autobahn.sh" --url "$url" --cases quick \
    --report "$SCRATCH/autobahn" >"$SCRATCH/autobahn.log" 2>&1; then
    tail -n 20 "$SCRATCH/autobahn.log" | indented
    wrong="$wrong, the Autobahn|Testsuite"
  fi
  if [ -n "$wrong" ]; then
    echo "FAIL  $name: ${wrong#, }"
    failures=$((failures + 1))
    stop_container
    return
  fi
  echo "ok    $name: $(grep -o 'on [0-9]* shards\? on [a-z_]*' <<<"$words" | head -n 1)"
  grep -A 3 WARN <<<"$words" | indented || true
  stop_container
}

in_container "the default profile" " on "
in_container "without io_uring" "on epoll:" --security-opt "seccomp=$SCRATCH/without.json"
in_container "with io_uring" "on io_uring:" --security-opt "seccomp=$SCRATCH/with.json"

[ "$failures" -eq 0 ]
