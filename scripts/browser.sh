#!/usr/bin/env bash
# Drives a headless Chromium through the page that the server answers GET / with, and takes pictures.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/browser.sh [--url URL | --binary PATH] [--shots DIR] [--tls]

Opens the server's page in headless Chromium, works it as a person would, checks what it shows and
saves screenshots. Then messages go through a server that compresses, and through topics whose
connection breaks. Prints one line a check and 'N passed, N failed'.

  --url URL      test the server at URL (http://127.0.0.1:PORT/) instead of starting one
  --binary PATH  start PATH instead of building and starting target/release/ringwire
  --shots DIR    where the screenshots go (default: target/browser)
  --tls          over https:// and wss://, with a certificate of an authority that openssl makes and
                 this Chromium alone trusts
  --help         this text

Chromium and two small fonts come from apt-get where they are missing, playwright-core from npm into
.cache/browser; with --tls, openssl and certutil from apt-get as well. Exit status: 0 all checks
passed, 1 a check failed, 2 the test could not be run.
END
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"

url=""
binary=""
shots=$ROOT/target/browser
tls=""
while [ $# -gt 0 ]; do
  case $1 in
    --url | --binary | --shots)
      [ -n "${2:-}" ] || die "$1 needs a value; see --help."
      declare "${1#--}=$2"
      shift 2
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
[ -z "$url" ] || [ -z "$binary" ] || die "--url and --binary exclude each other."
[ -z "$url" ] || [ -z "$tls" ] || die "--url and --tls exclude each other."
case $url in '' | http://*) ;; *) die "--url takes http://HOST:PORT/, not '$url'." ;; esac

prepare
require_node 20
missing=()
[ -x /usr/bin/chromium ] || missing+=(chromium fonts-liberation)
# Without these the pictures show boxes where the test sends CJK text and emoji.
command -v fc-list >/dev/null || missing+=(fontconfig)
[ -n "$(fc-list :lang=ja 2>/dev/null)" ] || missing+=(fonts-droid-fallback)
[ -n "$(fc-list :lang=und-zsye 2>/dev/null)" ] || missing+=(fonts-noto-color-emoji)
[ -z "$tls" ] || command -v openssl >/dev/null || missing+=(openssl)
[ -z "$tls" ] || command -v certutil >/dev/null || missing+=(libnss3-tools)
[ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"

cache=$ROOT/.cache/browser
install_node_packages "$ROOT/scripts/browser" "$cache"
# Node finds packages from the folder of the file that imports them.
cp "$ROOT"/scripts/browser/*.mjs "$cache/"
mkdir -p "$shots"
rm -f "$shots"/failed-*.png

own_server=
if [ -n "$tls" ]; then
  # shellcheck source=SCRIPTDIR/lib/certificates.sh disable=SC1091
  source "$ROOT/scripts/lib/certificates.sh"
  pem=$SCRATCH/certificates
  { authority "$pem" && certificate "$pem" server /CN=localhost; } ||
    die "the certificates could not be made; openssl's words stand above."
  # Chromium trusts what the database in its user's home says, and this home is for this test.
  export HOME=$SCRATCH/home
  mkdir -p "$HOME/.pki/nssdb"
  {
    certutil -d "sql:$HOME/.pki/nssdb" -N --empty-password &&
      certutil -d "sql:$HOME/.pki/nssdb" -A -t C,, -n tests -i "$pem/authority.pem"
  } || die "certutil failed; its words stand above."
  server_start "$binary" --tls-listen 127.0.0.1:0 --tls-cert "$pem/server.pem" \
    --tls-key "$pem/server.key"
elif [ -z "$url" ]; then
  own_server=yes
  server_start "$binary"
fi
[ -n "$url" ] || url=http${SERVER_URL#ws}
check "" 180 node "$cache/page.mjs" "$url" "$shots" "$SCRATCH/profile"
server_stop
if [ -n "$own_server" ]; then
  server_start "$binary" --compress --compress-context-takeover --inflate-context-takeover
  page=http${SERVER_URL#ws}
  check "compressed: " 60 node "$cache/page.mjs" "$page" "$shots" "$SCRATCH/profile-2" --compress
  server_stop
  cat >"$SCRATCH/topics.toml" <<'END'
[[route]]
path = "/topics/{*topic}"
application = "topics"
topic_history_messages_max = 50
END
  server_start "$binary" --config "$SCRATCH/topics.toml" --admin-listen 127.0.0.1:0
  admin_url "$SCRATCH/server.out"
  page=http${SERVER_URL#ws}
  check "topics: " 90 node "$cache/topics.mjs" "$page" "$ADMIN_URL" "$shots" "$SCRATCH/profile-3"
  server_stop
fi
finish
