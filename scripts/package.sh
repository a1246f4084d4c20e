#!/usr/bin/env bash
# A static binary, and a Debian package of it that is looked at and tried.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/package.sh [--binary PATH] [--output DIR]

Builds the server as one static file, and a Debian package of it with the unit, the user, settings,
pages of the manual and what shells complete. Then it looks at the package (dpkg-deb, and lintian
where it is installed), unpacks it into a folder of its own, and runs the server from there.

  --binary PATH   a static binary to package instead of building one
  --output DIR    where the package is put (default target/package)
  --help          this text

It needs dpkg-deb, binutils and gzip. The C library is glibc: tokio-uring, which the async engine
needs, does not build with musl. Exit status: 0 the package is there and works, 1 it does not, 2 it could not be made.
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
command -v strip >/dev/null || install_packages binutils
files=$ROOT/target/package
output=${output:-$files}
rm -rf "$files"
mkdir -p "$files" "$output"

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

# What stands in the package, where it goes.
tree=$files/tree
systemd=$ROOT/scripts/deploy/systemd
put() {
  install -D -m "$1" "$2" "$tree/$3"
}
put 755 "$binary" usr/bin/ringwire
strip "$tree/usr/bin/ringwire"
ringwire=$tree/usr/bin/ringwire
sed 's|/usr/local/bin/|/usr/bin/|' "$systemd/ringwire.service" >"$files/unit"
put 644 "$files/unit" usr/lib/systemd/system/ringwire.service
put 644 "$systemd/ringwire.socket" usr/lib/systemd/system/ringwire.socket
put 644 "$systemd/ringwire.sysusers" usr/lib/sysusers.d/ringwire.conf
put 644 "$systemd/ringwire.toml" etc/ringwire/ringwire.toml
mkdir -p "$tree/usr/share/man/man1"
"$ringwire" man | gzip -9n >"$tree/usr/share/man/man1/ringwire.1.gz"
# Every subcommand that the help names has a page.
"$ringwire" --help | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p' | grep -v '^help$' >"$files/commands"
while read -r command; do
  "$ringwire" man "$command" | gzip -9n >"$tree/usr/share/man/man1/ringwire-$command.1.gz"
done <"$files/commands"
mkdir -p "$tree"/usr/share/{bash-completion/completions,zsh/vendor-completions,fish/vendor_completions.d}
"$ringwire" completions bash >"$tree/usr/share/bash-completion/completions/ringwire"
"$ringwire" completions zsh >"$tree/usr/share/zsh/vendor-completions/_ringwire"
"$ringwire" completions fish >"$tree/usr/share/fish/vendor_completions.d/ringwire.fish"
chmod 644 "$tree"/usr/share/man/man1/* "$tree"/usr/share/*/*completions*/*
put 644 "$ROOT/scripts/deploy/README.md" usr/share/doc/ringwire/README.md
put 644 "$ROOT/LICENSE-MIT" usr/share/doc/ringwire/copyright
version=$("$ringwire" --version | cut -d ' ' -f 2)
maintainer='The ringwire maintainers <maintainers@ringwire.invalid>'
dated=$(git -C "$ROOT" log -1 --format=%aD 2>/dev/null || date -R)
printf 'ringwire (%s) unstable; urgency=medium\n\n  * CHANGELOG.md of the sources has what is new.\n\n -- %s  %s\n' \
  "$version" "$maintainer" "$dated" | gzip -9n >"$files/changelog"
put 644 "$files/changelog" usr/share/doc/ringwire/changelog.gz
put 644 "$ROOT/server/debian/lintian-overrides" usr/share/lintian/overrides/ringwire
mkdir "$tree/DEBIAN"
cat >"$tree/DEBIAN/control" <<END
Package: ringwire
Version: $version
Architecture: $(dpkg --print-architecture)
Maintainer: $maintainer
Installed-Size: $(du -sk "$tree" | cut -f 1)
Recommends: systemd
Section: net
Priority: optional
Description: WebSocket server on io_uring
 It runs on epoll where there is no io_uring, and has TLS, routes, topics, tokens,
 metrics, and reloads and drains without a lost connection.
 .
 It comes with a user of its own and settings in /etc/ringwire, and does not start
 by itself: systemctl enable --now ringwire.
END
echo /etc/ringwire/ringwire.toml >"$tree/DEBIAN/conffiles"
for script in postinst prerm postrm; do
  put 755 "$ROOT/server/debian/$script" "DEBIAN/$script"
done
find "$tree" -type d -exec chmod 755 {} +
package=$output/ringwire_${version}_$(dpkg --print-architecture).deb
dpkg-deb --root-owner-group --build "$tree" "$package" >&2 || die "dpkg-deb failed; its words stand above."

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
