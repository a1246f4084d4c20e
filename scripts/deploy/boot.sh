#!/usr/bin/env bash
# Starts the systemd unit under a systemd of its own, and checks what comes of it.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/deploy/boot.sh --binary PATH --loadgen PATH --folder PATH

Boots a systemd in a container of systemd-nspawn's. Its root is this machine's, with everything
that is written going into memory, and its network is its own; nothing of this machine changes. The
server, its unit, socket, user and settings are installed there as README.md says, and inside.sh
checks them: start, sandbox, admin side, reload, watchdog, stop, sockets of systemd. Prints
'ok NAME' or 'FAIL NAME: why'.

  --binary PATH   the server
  --loadgen PATH  the load generator
  --folder PATH   an empty folder, where all that is mounted
  --help          this text

It needs root and systemd-nspawn (Debian: systemd-container). Exit status: 0 the checks were made,
whatever they found; 2 they could not be made.
END
}

die() {
  echo "boot.sh: $*" >&2
  exit 2
}

binary=""
loadgen=""
folder=""
while [ $# -gt 0 ]; do
  case $1 in
    --binary | --loadgen | --folder)
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
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ ! -x "$binary" ] || [ ! -x "$loadgen" ] || [ ! -d "$folder" ]; then
  die "three paths are needed; see --help."
fi
[ "$(id -u)" -eq 0 ] || die "run it as root: it mounts."
command -v systemd-nspawn >/dev/null || die "systemd-nspawn is not installed."

# What is mounted below is seen by nobody else, and is gone when its last process is. All processes
# are in a namespace that ends with its first one, which ends with this one.
if [ "${BOOT_UNSHARED:-}" != yes ]; then
  BOOT_UNSHARED=yes unshare --mount --propagation private --pid --fork --kill-child --mount-proc \
    "$here/boot.sh" --binary "$binary" --loadgen "$loadgen" --folder "$folder" &
  inner=$!
  trap 'kill -KILL "$inner" 2>/dev/null || true' EXIT
  trap 'exit 143' TERM INT HUP
  # In the background, because a trap waits for a foreground command.
  status=0
  wait "$inner" || status=$?
  exit "$status"
fi

mount -t tmpfs -o size=1g,mode=0755 tmpfs "$folder" || die "no memory can be mounted here."
mkdir "$folder/written" "$folder/work" "$folder/root"
mount -t overlay overlay "$folder/root" \
  -o "lowerdir=/,upperdir=$folder/written,workdir=$folder/work" ||
  die "this machine's root cannot be overlaid."
root=$folder/root
# Everything below writes there. If it is not the overlay, it would be written to this machine.
[ "$(stat -f -c %T "$root")" = overlayfs ] || die "$root is no overlay."

install -m 0755 "$binary" "$root/usr/local/bin/ringwire"
install -m 0755 "$loadgen" "$root/usr/local/bin/loadgen"
install -d "$root/etc/ringwire"
install -m 0644 "$here/systemd/ringwire.toml" "$root/etc/ringwire/ringwire.toml"
install -m 0644 "$here/systemd/ringwire.sysusers" "$root/usr/lib/sysusers.d/ringwire.conf"
install -m 0644 "$here/systemd/ringwire.service" "$here/systemd/ringwire.socket" \
  "$root/etc/systemd/system/"
install -m 0755 "$here/inside.sh" "$root/inside.sh"
systemd-sysusers --root="$root" ringwire.conf >/dev/null 2>&1 || die "the user could not be made."

# Nothing of this machine's own services is started: the target wants the checks alone.
cat >"$root/etc/systemd/system/inside.service" <<'END'
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart=/inside.sh
StandardOutput=file:/inside.out
StandardError=file:/inside.err
TimeoutStartSec=100s
ExecStopPost=/bin/systemctl --no-block --force poweroff
END
cat >"$root/etc/systemd/system/inside.target" <<'END'
[Unit]
Requires=inside.service
After=inside.service
END

timeout --kill-after=10 120 systemd-nspawn --quiet --register=no --keep-unit --private-network \
  --machine=ringwire-boot --directory="$root" --boot systemd.unit=inside.target \
  </dev/null >"$folder/console" 2>&1 || true
if [ ! -s "$root/inside.out" ]; then
  tail -n 20 "$folder/console" "$root/inside.err" >&2 || true
  die "no systemd could be booted here; the last words stand above."
fi
cat "$root/inside.err" >&2
cat "$root/inside.out"
