#!/usr/bin/env bash
# Runs every fuzz target with an equal share of MINUTES, or of INPUTS if it is set; ONLY=image,feed runs
# some. Inputs that reached new code are kept in target/fuzz/corpus for the next run, an input that fails
# in the folder of its target. A failure does not take the share of the targets that follow.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath --canonicalize-missing "${CARGO_TARGET_DIR:-target}/fuzz")
mapfile -t targets < <(sed -nE 's/^    ([a-z_]+)$/\1/p' fuzz/tests/targets.rs)
[[ -z ${ONLY:-} ]] || IFS=', ' read -ra targets <<<"$ONLY"
if [[ -n ${INPUTS:-} ]]; then
    share=(--runs $(((INPUTS + ${#targets[@]} - 1) / ${#targets[@]})))
else
    share=(-T "$((${MINUTES:-20} * 60 / ${#targets[@]} + 1))s")
fi
mkdir -p "$out/logs"
: >"$out/table"
failed=0
for target in "${targets[@]}"; do
    log=$out/logs/$target
    echo "== $target: ${share[1]}, log in $log"
    seeds=$PWD/fuzz/tests/__fuzz__/$target/corpus
    mkdir -p "$seeds"
    begun=$SECONDS
    result=ok
    cargo bolero test "$target" --package fuzz --sanitizer NONE --target-dir "$out/build" \
        "${share[@]}" --max-input-length 16384 --corpus-dir "$out/corpus/$target" \
        -E "$seeds" -E=-print_final_stats=1 >"$log" 2>&1 || result=FAILED
    statistic() { sed -nE "s/^stat::$1: +([0-9]+)/\1/p" "$log" | tail -1; }
    if [[ -z $(statistic number_of_executed_units) ]]; then
        tail -30 "$log" >&2
        exit 1
    fi
    [[ $result == ok ]] || failed=1
    # Without the build, where the run came to its end.
    seconds=$(sed -nE 's/^Done [0-9]+ runs in ([0-9]+) second.*/\1/p' "$log" | tail -1)
    printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$target" "$(statistic number_of_executed_units)" "${seconds:-$((SECONDS - begun))}" \
        "$(statistic new_units_added)" "$(statistic peak_rss_mb)" "$result" >>"$out/table"
done
awk -F '\t' '
    BEGIN { printf "\n%-16s %12s %8s %11s %7s  %s\n", "target", "inputs", "seconds", "new corpus", "MiB", "result" }
    { printf "%-16s %12d %8d %11d %7d  %s\n", $1, $2, $3, $4, $5, $6; inputs += $2; seconds += $3; new += $4 }
    END { printf "%-16s %12d %8d %11d\n", "all", inputs, seconds, new }' "$out/table"
exit "$failed"
