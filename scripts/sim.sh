#!/usr/bin/env bash
# Runs the simulation: a server shard, a client shard and hostile peers on one simulated kernel, by
# seed, with every fault that a seed draws. Prints how often each fault and each check acted, how
# many seeds ran, and how long it took, and after each 10,000 how far it is. 10,000 seeds take about
# a minute on two cores, and 1,000,000 of them (--seeds 1000000) two hours.
#
#   scripts/sim.sh [--seeds 10000] [--start NUMBER|TEXT] [--seed NUMBER] [--debug]
#
# --start chooses the first seed; text, such as a commit hash, is turned into a number, so that each
# commit sees other seeds. --seed runs one seed alone and prints its trace. --debug runs what
# `cargo test --workspace --all-features` has built: slower, and sooner where that is there.
#
# Exit code 0: all seeds kept every promise. 1: one did not; the command that runs it alone is
# printed. 2: the simulation could not be built or run.

set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

cannot() {
    echo "sim: $*" >&2
    exit 2
}

usage() {
    sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

is_number() {
    [[ $1 =~ ^[0-9]+$ ]] || cannot "$2 needs a number, not '$1'"
}

export RINGWIRE_SIM_SEEDS=10000 RINGWIRE_SIM_START=${RINGWIRE_SIM_START:-} RINGWIRE_SIM_SEED=
build=(--release --features sim)
while (($# > 0)); do
    case $1 in
        --seeds | --start | --seed)
            (($# > 1)) || cannot "$1 needs a value; see --help"
            case $1 in
                --seeds)
                    is_number "$2" "$1"
                    RINGWIRE_SIM_SEEDS=$2
                    ;;
                --start) RINGWIRE_SIM_START=$2 ;;
                --seed)
                    is_number "$2" "$1"
                    RINGWIRE_SIM_SEED=$2
                    ;;
            esac
            shift 2
            ;;
        --debug)
            build=(--workspace --all-features)
            shift
            ;;
        --help | -h)
            usage
            exit 0
            ;;
        *) cannot "unknown argument $1; see --help" ;;
    esac
done

cargo test "${build[@]}" --test sim --no-run || cannot "the simulation does not build"
if ! cargo test --quiet "${build[@]}" --test sim -- --nocapture; then
    exit 1
fi
