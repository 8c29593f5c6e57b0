#!/usr/bin/env bash
# Runs every fuzz target for an equal share of the time, one after the other: run.sh MINUTES
set -euo pipefail
cd "$(dirname "$0")"
mapfile -t targets < <(sed -nE 's/^    ([a-z_]+)$/\1/p' tests/targets.rs)
share=$(( $1 * 60 / ${#targets[@]} + 1 ))
for target in "${targets[@]}"; do
    echo "== $target: $share s"
    cargo bolero test "$target" --package fuzz --sanitizer NONE --time "${share}s"
done
