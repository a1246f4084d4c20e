# shellcheck shell=bash
# Sourced by attack.sh and soak.sh: the programs that both need.

# attack_programs: sets binary, attack and attacked, builds those that are missing, and makes
# certificates in $SCRATCH/pem. With a binary that was given, what was built before is good enough.
attack_programs() {
  local release=${CARGO_TARGET_DIR:-$ROOT/target}/release given=$binary
  command -v openssl >/dev/null || install_packages openssl
  command -v python3 >/dev/null || install_packages python3
  # shellcheck source=SCRIPTDIR/../lib/certificates.sh disable=SC1091
  source "$ROOT/scripts/lib/certificates.sh"
  { authority "$SCRATCH/pem" && certificate "$SCRATCH/pem" server /CN=localhost; } ||
    die "the certificates could not be made; openssl's words stand above."
  binary=${binary:-$(built "" "$release/ringwire" --bin ringwire)}
  attack=${attack:-$(built "$given" "$release/examples/attack" -p loadgen --example attack)}
  attacked=${attacked:-$(built "$given" "$release/examples/attacked" --example attacked)}
  local program
  for program in "$binary" "$attack" "$attacked"; do
    [ -x "$program" ] || die "$program is not an executable file."
  done
}

# built KEEP PATH OPTION...: prints PATH, which cargo builds with these options; not if it is there
# and KEEP is not empty.
built() {
  local keep=$1 path=$2
  shift 2
  if [ -z "$keep" ] || [ ! -x "$path" ]; then
    command -v cargo >/dev/null || die "cargo is not installed; see https://rustup.rs."
    (cd "$ROOT" && cargo build --release --locked "$@" >&2) ||
      die "cargo build --release $* failed; the compiler's words stand above."
  fi
  echo "$path"
}
