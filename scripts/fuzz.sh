#!/usr/bin/env bash
# Fuzzes with libFuzzer whatever reads what a peer sends, and the queues that bytes leave in.
set -euo pipefail

ALL=(differential endpoints frames hixie inflate negotiation request_head response_head send_queue)

usage() {
  cat <<END
Usage: scripts/fuzz.sh [--seconds N | --smoke | --keep] [TARGET ...]

Builds the targets of fuzz/ with coverage and runs each one named, or all, for a while, from
tests/corpus and from what was found before. What they find is kept in .cache/fuzz; an input that
fails is written to .cache/fuzz/failed and named. Any toolchain will do: no sanitizer is used, since
there is no unsafe code in what is fuzzed; scripts/asan.sh is for what has some.

The targets: ${ALL[*]}.
fuzz/README.md says what each one compares.

  --seconds N  how long each target runs (default 60)
  --smoke      5 seconds each
  --keep       runs none, and puts into tests/corpus the few inputs of what was found that reach most
  --help       this text

Exit status: 0 nothing failed, 1 an input failed, 2 the targets could not be built.
END
}

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=$ROOT/.cache/fuzz
seconds=60
keep=
targets=()
while [ $# -gt 0 ]; do
  case $1 in
    --seconds)
      [ -n "${2:-}" ] || {
        echo "fuzz.sh: --seconds needs a value; see --help." >&2
        exit 2
      }
      seconds=$2
      shift 2
      ;;
    --smoke)
      seconds=5
      shift
      ;;
    --keep)
      keep=yes
      shift
      ;;
    --help | -h)
      usage
      exit
      ;;
    *)
      [[ " ${ALL[*]} " == *" $1 "* ]] || {
        echo "fuzz.sh: unknown argument '$1'; see --help." >&2
        exit 2
      }
      targets+=("$1")
      shift
      ;;
  esac
done
[ ${#targets[@]} -gt 0 ] || targets=("${ALL[@]}")

# What cargo-fuzz passes, without its sanitizer.
flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
flags+=" -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
flags+=" -Ccodegen-units=1"
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="$flags" cargo build --quiet --release --locked --manifest-path "$ROOT/fuzz/Cargo.toml" \
  --target "$host" --target-dir "$ROOT/target/fuzz" || exit 2
mkdir -p "$CACHE/failed"

# How many inputs of a target are kept in the repository, beside those with a name of their own: they
# were a mistake once.
KEPT=7

# Puts those into tests/corpus that libFuzzer adds first to the smallest set that reaches what all
# short inputs reach: each is the one that adds most to those before it.
keep_best() {
  local target=$1 program=$2 short=$CACHE/$1.short merged=$CACHE/$1.merged
  local corpus=$ROOT/tests/corpus/$target
  rm -rf "$short" "$merged"
  mkdir -p "$short" "$merged" "$corpus"
  # One after the other: the same input is in both.
  find "$CACHE/$target" -type f -size -401c -exec cp -t "$short" {} +
  find "$corpus" -type f -size -401c -exec cp -t "$short" {} +
  "$program" -set_cover_merge=1 "$merged" "$short" 2>"$CACHE/$target.log"
  find "$corpus" -type f -not -name '*-*' -delete
  find "$merged" -type f -printf '%T@ %p\n' | sort -n | sed -n "1,${KEPT}p" | cut -d' ' -f2- |
    while read -r input; do
      cp "$input" "$corpus/"
    done
  rm -rf "$short" "$merged"
  echo "$target: $(find "$corpus" -type f | wc -l) inputs"
}

for target in "${targets[@]}"; do
  program=$ROOT/target/fuzz/$host/release/$target
  if [ -n "$keep" ]; then
    keep_best "$target" "$program"
    continue
  fi
  mkdir -p "$CACHE/$target"
  echo "fuzzing $target for $seconds s"
  "$program" -max_total_time="$seconds" -max_len=4096 -print_final_stats=1 \
    -artifact_prefix="$CACHE/failed/$target-" "$CACHE/$target" "$ROOT/tests/corpus/$target" \
    2>"$CACHE/$target.log" || {
    tail -n 30 "$CACHE/$target.log" >&2
    exit 1
  }
  grep -E "stat::(number_of_executed_units|average_exec_per_sec)|cov:" "$CACHE/$target.log" |
    tail -n 3
done
