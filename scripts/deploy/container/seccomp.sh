#!/usr/bin/env bash
# Makes a seccomp profile for containers that allows io_uring.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/deploy/container/seccomp.sh [--arch amd64|arm64] [FILE] >ringwire.json

Takes a container engine's default seccomp profile, allows io_uring's three system calls in it, and
writes it to standard output. The profile is made and not kept here: the engines' grows with every
kernel, and an old copy would forbid what a new C library or a new server needs.

The result is of the plain kind that all engines read: rules for other processors are left out, and
those for containers with capabilities, of which this server needs none.

  FILE         the engine's profile; unless given /etc/containers/seccomp.json or
               /usr/share/containers/seccomp.json (podman, CRI-O). Docker and containerd have theirs
               in the program: profiles/seccomp/default.json of github.com/moby/moby is it in a file
  --arch NAME  the processor (default: this machine's)
  --help       this text

Use: podman run --security-opt seccomp=ringwire.json, docker run likewise. For Kubernetes it goes
onto each node as /var/lib/kubelet/seccomp/profiles/ringwire.json.

It needs jq. Exit status: 0 it is written, 2 it could not be made.
END
}

die() {
  echo "seccomp.sh: $*" >&2
  exit 2
}

arch=""
file=""
while [ $# -gt 0 ]; do
  case $1 in
    --arch)
      [ -n "${2:-}" ] || die "--arch needs a value; see --help."
      arch=$2
      shift 2
      ;;
    --help | -h)
      usage
      exit
      ;;
    -*) die "unknown argument '$1'; see --help." ;;
    *)
      [ -z "$file" ] || die "one FILE is enough; see --help."
      file=$1
      shift
      ;;
  esac
done

command -v jq >/dev/null || die "jq is not installed."
if [ -z "$arch" ]; then
  case $(uname -m) in
    x86_64) arch=amd64 ;;
    aarch64) arch=arm64 ;;
    *) die "name the processor with --arch." ;;
  esac
fi
case $arch in
  amd64) architecture=SCMP_ARCH_X86_64 ;;
  arm64) architecture=SCMP_ARCH_AARCH64 ;;
  *) die "--arch is amd64 or arm64, not '$arch'." ;;
esac
for default in /etc/containers/seccomp.json /usr/share/containers/seccomp.json; do
  if [ -z "$file" ] && [ -e "$default" ]; then
    file=$default
  fi
done
[ -n "$file" ] || die "no engine's profile is on this machine; name a FILE, see --help."

# What a rule includes or excludes: processors by their names in Go, capabilities, a kernel that is
# at least 4.8 (io_uring's is 6.1). A container without capabilities has none that a rule includes,
# and none that a rule excludes. 'errno' is the name of 'errnoRet', which only some engines know.
jq --arg arch "$arch" --arg architecture "$architecture" '
  ["io_uring_setup", "io_uring_enter", "io_uring_register"] as $io_uring
  | def is_for_us:
      ((.includes.arches // []) | length == 0 or index($arch) != null)
      and ((.excludes.arches // []) | index($arch) == null)
      and ((.includes.caps // []) | length == 0);
  if (.syscalls | type) != "array" then error("it has no list of syscalls") else . end
  | {
      defaultAction,
      defaultErrnoRet: (.defaultErrnoRet // 1),
      architectures: [
        $architecture,
        ((.archMap // [])[] | select(.architecture == $architecture) | (.subArchitectures // [])[])
      ],
      syscalls: (
        [
          .syscalls[]
          | select(is_for_us)
          | {names: (.names - $io_uring), action, args, errnoRet}
          | if (.args // []) == [] then del(.args) else . end
          | if .errnoRet == null then del(.errnoRet) else . end
          | select(.names != [])
        ]
        + [{names: $io_uring, action: "SCMP_ACT_ALLOW"}]
      )
    }' "$file" || die "$file is no seccomp profile of a container engine."
