#!/usr/bin/env bash
# Starts `gantry demo` and runs the curl lines that it prints, as a person would who pastes them.
#
#   tests/demo.sh                 with target/release/gantry, or GANTRY_BINARY
set -euo pipefail
cd "$(dirname "$0")/.."

binary=$(realpath "${GANTRY_BINARY:-${CARGO_TARGET_DIR:-target}/release/gantry}")
work=$(mktemp -d)
log=$work/demo.log
pid=
cleanup() {
    status=$?
    if [ -n "$pid" ]; then
        kill -KILL "$pid" 2>/dev/null || true
    fi
    if [ "$status" != 0 ]; then
        printf -- '--- gantry demo printed\n' >&2
        tail -n 60 "$log" >&2 || true
    fi
    rm -rf "$work"
    exit "$status"
}
trap cleanup EXIT
fail() {
    printf 'demo: %s\n' "$*" >&2
    exit 1
}

# The lines to paste, a trailing backslash joined with the line after it.
curl_lines() { sed -e ':join' -e '/\\$/{N;s/\\\n *//;b join' -e '}' "$log" | sed -nE 's/^[[:space:]]*(\$ )?(curl .*)$/\2/p'; }

cd "$work"
"$binary" demo >"$log" 2>&1 </dev/null &
pid=$!
for _ in $(seq 300); do
    kill -0 "$pid" 2>/dev/null || { pid=; fail "it ended at once"; }
    if [ "$(curl_lines | wc -l)" -ge 3 ] && curl --silent --fail --max-time 2 --output /dev/null http://127.0.0.1:8080/ping; then
        break
    fi
    sleep 0.1
done
[ "$(curl_lines | wc -l)" -ge 3 ] || fail "it does not print three curl lines"

curl_lines >lines
while read -r line; do
    printf '  $ %s\n' "$line"
    printf '%s' "$line" >line.sh
    timeout 60 bash -euo pipefail line.sh >out 2>err </dev/null || { tail -n 5 out err >&2; fail "that line fails"; }
    tail -n 3 out | cut -c -160 | tr -cd '[:print:]\n' | sed 's/^/    /'
done <lines

curl --silent --fail --max-time 5 http://127.0.0.1:8080/metrics >metrics || fail "/metrics does not answer"
promtool check metrics <"$work/metrics" || fail "promtool does not like /metrics"
grep -qE '^model_inference_duration_seconds_count\{.*\} [1-9]' metrics || fail "/metrics has no inference"
grep -E '^model_(accuracy|inference_time_seconds)\{' metrics | sed 's/^/    /'
grep -qE '^model_accuracy\{.*\} [01]' metrics || fail "/metrics has no accuracy"
grep -qE '^model_stage_duration_seconds_count\{.*stage="segment".*\} [1-9]' metrics || fail "/metrics has no stages"
[ "$(curl --silent --max-time 5 http://127.0.0.1:8080/sd | grep -o __metrics_path__ | wc -l)" = 2 ] || fail "/sd does not list both models"

kill -TERM "$pid"
for _ in $(seq 200); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
done
! kill -0 "$pid" 2>/dev/null || fail "it does not end within 20 s of SIGTERM"
status=0
wait "$pid" || status=$?
pid=
[ "$status" = 0 ] || fail "it ended with exit code $status after SIGTERM"
echo "  SIGTERM: exit code 0"
