#!/usr/bin/env bash
# Counts what a shard costs in instructions, which no neighbour disturbs, and holds it against what
# is on file.
set -euo pipefail

usage() {
  cat <<'END_OF_USAGE'
Usage: scripts/instructions.sh [--keep] [--top N] [--binary PATH] [--output FOLDER]

Has callgrind count the instructions that a shard runs in user space for an echo, for the opening
handshake and in an idle turn, on the simulated ring, whose own instructions are not among them.
Prints a table beside what is on file in benches/instructions.json, where a figure may be 2 % above
or below. benches/README.md tells what is counted and what is not.

  --keep           put the figures on file, and into the table of benches/README.md
  --top N          name the N functions that most instructions of each figure are in (default 0)
  --binary PATH    count in PATH instead of building target/release/examples/instructions
  --output FOLDER  keep callgrind's files there, for callgrind_annotate
  --help           this text

Where another rustc, valgrind or C library made the figures on file, it says so, and only more than
10 % above them is an error. valgrind and python3 come from apt-get where they are missing. It takes
a processor with AVX2. Exit status: 0 all figures are as on file, 1 one is not, 2 they could not be
counted.
END_OF_USAGE
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"

keep=""
binary=""
output=""
top=0
while [ $# -gt 0 ]; do
  case $1 in
    --keep)
      keep=yes
      shift
      ;;
    --binary | --output | --top)
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

[[ $top =~ ^[0-9]+$ ]] || die "--top takes a number of functions, not '$top'."

# valgrind shows a program the vector instructions that the processor has, up to AVX2. With fewer
# others are chosen, and everything costs more.
grep -qw avx2 /proc/cpuinfo || die "this processor has no AVX2, with which the figures were made."

prepare
missing=()
command -v valgrind >/dev/null || missing+=(valgrind)
command -v python3 >/dev/null || missing+=(python3)
[ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
if [ -z "$binary" ]; then
  command -v cargo >/dev/null ||
    die "cargo is not installed; see https://rustup.rs, or name a --binary."
  (cd "$ROOT" &&
    cargo build --quiet --release --locked --features sim --example instructions >&2) ||
    die "cargo build --release --example instructions failed; the compiler's words stand above."
  binary=${CARGO_TARGET_DIR:-$ROOT/target}/release/examples/instructions
fi
[ -x "$binary" ] || die "$binary is not an executable file."

folder=$SCRATCH/counted
if [ -n "$output" ]; then
  mkdir -p "$output" || die "$output cannot be made."
  folder=$output
else
  mkdir "$folder"
fi
"$binary" --list >"$SCRATCH/list" || die "$binary --list failed; its words stand above."

# Memory that is given back, and when, depends on the time that has passed; here none passes.
export MIMALLOC_PURGE_DELAY=-1

# valgrind counts an instruction that repeats itself once for each byte, of which a processor does
# many at a time. The C library has them for more than some KiB; here it keeps to vectors.
export GLIBC_TUNABLES=glibc.cpu.x86_rep_movsb_threshold=1073741824
GLIBC_TUNABLES+=:glibc.cpu.x86_rep_stosb_threshold=1073741824

# count NAME: in the background of this shell, because a trap waits for a foreground command.
count() {
  local status=0
  valgrind --quiet --tool=callgrind --collect-atstart=no '--toggle-collect=*counted_turn*' \
    --callgrind-out-file="$folder/$1" "$binary" --run "$1" >"$SCRATCH/out" 2>&1 &
  PROGRAM_PID=$!
  wait "$PROGRAM_PID" || status=$?
  PROGRAM_PID=
  if [ "$status" -ne 0 ]; then
    tail -n 20 "$SCRATCH/out" >&2
    die "counting $1 failed with status $status; the words of valgrind and the program stand above."
  fi
}

while IFS=$'\t' read -r name _; do
  count "$name"
done <"$SCRATCH/list"

# The compiler says in the program which one it was.
rustc=$(LC_ALL=C grep -aom 1 'rustc version [[:print:]]*' "$binary") ||
  die "$binary does not say which compiler made it."
libc=$(getconf GNU_LIBC_VERSION 2>/dev/null || echo another)
mode=judge
[ -z "$keep" ] || mode=keep
python3 "$ROOT/scripts/instructions/counts.py" "$mode" "$top" \
  "$ROOT/benches/instructions.json" "$ROOT/benches/README.md" "$SCRATCH/list" "$folder" \
  "${rustc#rustc version }" "$(valgrind --version | sed s/^valgrind-//)" "$libc"
