#!/usr/bin/env bash
# Runs the tests of the code that has `unsafe` in it under AddressSanitizer.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ "${1:-}" == "--help" || "${1:-}" == "-h" ]]; then
  cat <<'END'
Usage: scripts/asan.sh

Builds ringwire with AddressSanitizer and runs the tests of its kernels, of its ring, and the
fuzzer's bodies over their corpus, each in a build of its own in target/asan. It prints how many
tests ran.

The sanitizer is part of rustc, as -Zsanitizer=address, and its runtime comes with the toolchain
(librustc-*_rt.asan.a). The switch is for nightly only; RUSTC_BOOTSTRAP=1 has the stable compiler
take it. The standard library itself is not instrumented, but its calls of malloc, free and memcpy
are seen.

Exit status: 0 all of them passed, 1 one of them failed, 2 something is missing.
END
  exit
fi

host=$(rustc -vV | sed -n 's/^host: //p')
runtime=$(rustc --print sysroot)/lib/rustlib/$host/lib
if ! compgen -G "$runtime/librustc-*_rt.asan.a" >/dev/null; then
  echo "asan.sh: this toolchain ($(rustc -V)) has no AddressSanitizer: there is no" >&2
  echo "librustc-*_rt.asan.a in $runtime." >&2
  echo "Toolchains of rustup for Linux on x86-64 and arm64 have it; those of distributions do not." >&2
  exit 2
fi

export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Zsanitizer=address -Cforce-frame-pointers=yes"
# Tests that fork or end a thread on purpose leave what they held.
export ASAN_OPTIONS="detect_leaks=0:detect_stack_use_after_return=1:${ASAN_OPTIONS:-}"
run=(cargo test --all-features --target "$host" --target-dir target/asan)

"${run[@]}" --no-run --lib --test ring --test fuzz || {
  echo "asan.sh: the tests could not be built with AddressSanitizer; see above." >&2
  exit 2
}
status=0
report() {
  local name=$1 output
  shift
  output=$("${run[@]}" --quiet "$@" 2>&1) || {
    printf '%s\n' "$output" >&2
    status=1
  }
  grep '^test result' <<<"$output" | sed "s|^test result|$name|"
}
report "kernels" --lib kernels::
report "the ring's own" --lib ring::
report "tests/ring" --test ring
report "tests/fuzz" --test fuzz
exit $status
