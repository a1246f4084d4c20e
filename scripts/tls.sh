#!/usr/bin/env bash
# Holds the server's TLS against openssl s_client, and reloads its certificates under load.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/tls.sh [--binary PATH] [--loadgen PATH] [--reloads N]

Starts the server with certificates that openssl makes and asks it as openssl s_client does: for
versions, cipher suites, groups, ALPN, names (SNI), client certificates, resumption and the
close_notify at the end. Then replaces its certificate and sends SIGHUP N times while loadgen echoes
on open connections and opens new ones. Prints one line a check and 'N passed, N failed'.

  --binary PATH   start PATH instead of building and starting target/release/ringwire
  --loadgen PATH  use PATH instead of building target/release/loadgen
  --reloads N     how many reloads (default 100)
  --help          this text

Exit status: 0 all checks passed, 1 a check failed, 2 the test could not be run.
END
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"
# shellcheck source=SCRIPTDIR/loadgen/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/loadgen/lib.sh"
# shellcheck source=SCRIPTDIR/lib/certificates.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/certificates.sh"

binary=""
loadgen=""
reloads=100
while [ $# -gt 0 ]; do
  case $1 in
    --binary | --loadgen | --reloads)
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
command -v openssl >/dev/null || install_packages openssl
command -v python3 >/dev/null || install_packages python3
loadgen=$(loadgen_binary "$loadgen")

pem=$SCRATCH/certificates
{
  authority "$pem" &&
    certificate "$pem" p256 /CN=p256 &&
    certificate "$pem" rsa /CN=rsa -newkey rsa:2048 &&
    certificate "$pem" alice /CN=alice
} || die "the certificates could not be made; openssl's words stand above."
cp "$pem/p256.pem" "$pem/live.pem"
cp "$pem/p256.key" "$pem/live.key"

server_start "$binary" --tls-listen 127.0.0.1:0 --tls-cert "$pem/live.pem" --tls-key "$pem/live.key" \
  --tls-cert "$pem/rsa.pem" --tls-key "$pem/rsa.key" \
  --tls-client-auth optional --tls-client-ca "$pem/authority.pem"
address=${SERVER_URL#wss://}
address=${address%/}

# ask ARGUMENT...: a request over openssl s_client; its words go to $said.
said=$SCRATCH/said
ask() {
  printf 'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n' |
    timeout 10 openssl s_client -connect "$address" -CAfile "$pem/authority.pem" \
      -verify_return_error -ign_eof "$@" >"$said" 2>&1
}

# answered NAME PATTERN ARGUMENT...: the request is answered, and PATTERN stands in what was said.
answered() {
  local name=$1 pattern=$2
  shift 2
  if ! ask "$@"; then
    failed "$name" "$(grep -Em1 'error|alert' "$said" || tail -n 1 "$said")"
  elif ! grep -aq 'HTTP/1.1 200 ' "$said"; then
    failed "$name" "no HTTP/1.1 200 in the answer"
  elif ! grep -aEq -- "$pattern" "$said"; then
    failed "$name" "'$pattern' is not in what openssl said"
  else
    passed "$name"
  fi
}

# refused NAME PATTERN ARGUMENT...: the handshake fails with this alert.
refused() {
  local name=$1 pattern=$2
  shift 2
  if ask "$@"; then
    failed "$name" "it was accepted"
  elif ! grep -aEq "$pattern" "$said"; then
    failed "$name" "$(grep -Em1 'error|alert' "$said" || tail -n 1 "$said")"
  else
    passed "$name"
  fi
}

answered "TLS 1.3, whose certificate openssl verifies" 'Protocol *: TLSv1.3|New, TLSv1.3' -tls1_3
answered "TLS 1.2" 'Protocol *: TLSv1.2|New, TLSv1.2' -tls1_2
for version in tls1_1 tls1; do
  refused "$version is refused" 'alert (protocol version|handshake failure)' "-$version" \
    -cipher DEFAULT@SECLEVEL=0
done
for suite in TLS_AES_128_GCM_SHA256 TLS_AES_256_GCM_SHA384 TLS_CHACHA20_POLY1305_SHA256; do
  answered "$suite" "Cipher is $suite" -tls1_3 -ciphersuites "$suite"
done
for kind in ECDSA RSA; do
  for cipher in AES128-GCM-SHA256 AES256-GCM-SHA384 CHACHA20-POLY1305; do
    answered "ECDHE-$kind-$cipher" "Cipher is ECDHE-$kind-$cipher" -tls1_2 \
      -cipher "ECDHE-$kind-$cipher"
  done
done
for cipher in AES128-GCM-SHA256 ECDHE-ECDSA-AES128-SHA; do
  refused "$cipher, without forward secrecy or with CBC, is refused" 'alert handshake failure' \
    -tls1_2 -cipher "$cipher:@SECLEVEL=0"
done
for group in X25519 P-256 P-384; do
  answered "the group $group" 'Cipher is TLS_AES' -tls1_3 -groups "$group"
done
answered "ALPN http/1.1" 'ALPN protocol: http/1.1' -alpn h2,http/1.1
refused "ALPN without http/1.1" 'alert no application protocol' -alpn h2
answered "a certificate for the name that is asked for" 'subject=CN *= *p256' -servername localhost
answered "a client certificate is asked for" 'Acceptable client certificate CA names'
answered "and taken" 'Cipher is' -cert "$pem/alice.pem" -key "$pem/alice.key"
answered "a close_notify ends the stream" 'alert read:warning:close notify' -state
for version in tls1_2 tls1_3; do
  answered "a session of $version" 'New, ' "-$version" -sess_out "$SCRATCH/$version.session"
  answered "its ticket resumes it" 'Reused, ' "-$version" -sess_in "$SCRATCH/$version.session"
done

# A client that asks for new keys the old way (RFC 5246 section 7.4.1.1) gets none, and is told so.
{
  sleep 1
  printf 'R\n'
  sleep 1
} | timeout 10 openssl s_client -connect "$address" -CAfile "$pem/authority.pem" -tls1_2 -state \
  >"$said" 2>&1 || true
if grep -aq 'RENEGOTIATING' "$said" && grep -aEq 'no.renegotiation' "$said"; then
  passed "renegotiation is refused"
else
  failed "renegotiation is refused" "$(tail -n 1 "$said")"
fi

# What goes wrong is said once, in words, and hurts nobody.
reply=$(python3 - "$address" <<'END'
import socket, sys
host, port = sys.argv[1].split(":")
with socket.create_connection((host, int(port)), 10) as stream:
    stream.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    reply = b""
    while chunk := stream.recv(4096):
        reply += chunk
print(reply.decode())
END
)
case $reply in
  *"this is a TLS port"*) passed "plain HTTP is told that this is a TLS port" ;;
  *) failed "plain HTTP is told that this is a TLS port" "$reply" ;;
esac

# Certificates change while connections are open and others are opened.
echo "reloading $reloads times under load" >&2
common=(--quiet --ca "$pem/authority.pem" --allow-client-bound --warmup 0s --shards 1)
seconds=$((reloads / 10 + 3))
"$loadgen" echo "$SERVER_URL" "${common[@]}" --connections 16 --size 1k --binary --verify all \
  --rate 2000 --duration "${seconds}s" --json "$SCRATCH/echo.json" >"$SCRATCH/echo.out" 2>&1 &
echo_pid=$!
BACKGROUND_PIDS+=("$echo_pid")
"$loadgen" connect "$SERVER_URL" "${common[@]}" --no-resumption --rate 100 \
  --duration "${seconds}s" --json "$SCRATCH/connect.json" >"$SCRATCH/connect.out" 2>&1 &
connect_pid=$!
BACKGROUND_PIDS+=("$connect_pid")
for reload in $(seq "$reloads"); do
  certificate "$pem" "next" "/CN=round $reload" || die "no certificate."
  cp "$pem/next.pem" "$pem/live.pem"
  cp "$pem/next.key" "$pem/live.key"
  before=$(grep -c 'were read again' "$SCRATCH/server.err" || true)
  kill -HUP "$SERVER_PID"
  deadline=$((SECONDS + 10))
  until [ "$(grep -c 'were read again' "$SCRATCH/server.err" || true)" -gt "$before" ]; do
    [ "$SECONDS" -lt "$deadline" ] || break
    sleep 0.02
  done
done
status=0
wait "$echo_pid" || status=$?
wait "$connect_pid" || status=$?
[ "$status" -eq 0 ] || tail -n 20 "$SCRATCH/echo.out" "$SCRATCH/connect.out" >&2
read_again=$(grep -c 'were read again' "$SCRATCH/server.err" || true)
if [ "$read_again" -eq "$reloads" ]; then
  passed "SIGHUP read the certificates again $reloads times"
else
  failed "SIGHUP read the certificates again $reloads times" "it did so $read_again times"
fi
facts=$(python3 - "$SCRATCH/echo.json" "$SCRATCH/connect.json" <<'END'
import json, sys
echo, connect = (json.load(open(path)) for path in sys.argv[1:])
messages = echo["messages"]
wrong = sum(messages[name] for name in ("lost", "duplicated", "reordered", "corrupted"))
assert wrong == 0, messages
assert 0 < messages["received"] == messages["sent"], messages
assert echo["connections"]["failed"] == 0, echo["connections"]
assert connect["connections"]["failed"] == 0, connect["connections"]
assert connect["connections"]["opened"] > 100, connect["connections"]
print(f"{messages['received']:,} messages and {connect['connections']['opened']:,} handshakes")
END
) && status=0 || status=1
if [ "$status" -eq 0 ]; then
  passed "no message was lost and no handshake failed meanwhile: $facts"
else
  failed "no message was lost and no handshake failed meanwhile" "see above"
fi
answered "the last certificate is served" "subject=CN *= *round $reloads" -servername localhost
cp "$pem/p256.pem" "$pem/live.pem"
kill -HUP "$SERVER_PID"
deadline=$((SECONDS + 10))
until grep -q 'stay as they were' "$SCRATCH/server.err" || [ "$SECONDS" -ge "$deadline" ]; do
  sleep 0.02
done
if grep -q "stay as they were: the certificate in .* is not for the key in" "$SCRATCH/server.err"; then
  passed "a certificate that is not for its key is refused in one sentence"
else
  failed "a certificate that is not for its key is refused in one sentence" "it is not in the log"
fi
answered "and the last one stays" "subject=CN *= *round $reloads" -servername localhost
server_stop
finish
