#!/usr/bin/env bash
# Sets up what is missing, starts both versions of the model and Gantry before them, and says what to try.
# Ctrl-C ends all of it.
#
#   GANTRY=…   the gateway's command; default: target/release/gantry of this repository, else `cargo run --release`
#   THREADS=…  threads of an inference; default: all cores
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
root=$(cd ../.. && pwd)
eval "$(./setup.sh)" # sets PYTHON, MODELS and REFERENCE

if [[ -n ${GANTRY:-} ]]; then
  read -ra gantry <<<"$GANTRY"
elif [[ -x $root/target/release/gantry ]]; then
  gantry=("$root/target/release/gantry")
else
  gantry=(cargo run --release --quiet --manifest-path "$root/Cargo.toml" --)
fi

pids=()
# shellcheck disable=SC2317 # called by the traps
stop() {
  trap - EXIT INT TERM
  ((${#pids[@]} == 0)) || kill "${pids[@]}" 2>/dev/null || true
  wait
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mkdir -p run
[[ -s run/feedback.token ]] || (umask 077 && head -c 24 /dev/urandom | base64 >run/feedback.token)
for version in 1 2; do
  "$PYTHON" server.py --version "$version" --port "900$version" --models "$MODELS" --reference "$REFERENCE" \
    ${THREADS:+--threads "$THREADS"} >"run/model-v$version.log" 2>&1 &
  pids+=($!)
done

# Answers 200 within two minutes, or its process has ended: then its log says why.
await() { # name url pid log
  for _ in $(seq 600); do
    curl -fs -o /dev/null --max-time 2 "$2" && return
    kill -0 "$3" 2>/dev/null || break
    sleep 0.2
  done
  echo "run: $1 did not come up:" >&2
  [[ -z $4 ]] || tail -n 20 "$4" >&2
  exit 1
}
echo "run: loading the models (both run once on the template to warm up)" >&2
await "model version 1" http://127.0.0.1:9001/health "${pids[0]}" run/model-v1.log
await "model version 2" http://127.0.0.1:9002/health "${pids[1]}" run/model-v2.log

"${gantry[@]}" --configFile=gantry.yaml >run/gantry.log 2>&1 &
pids+=($!)
await Gantry http://127.0.0.1:8080/ping "${pids[2]}" run/gantry.log

cat <<TEXT

A volume goes in, a mask comes out (run it a few times: nine in ten go to version 1):

  curl -sS -D- -o mask.nii.gz -H 'Host: mri.example.com' --data-binary @$REFERENCE/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz http://127.0.0.1:8000/segment

How fast and how accurate each version is:

  curl -sS http://127.0.0.1:8080/metrics | grep ^model_

Somebody who knows the true mask tells how good an answer was, by the answer's X-Request-Id:

  curl -sS -H "Authorization: Bearer \$(cat $PWD/run/feedback.token)" --data-binary @truth.nii.gz http://127.0.0.1:8080/feedback/ID

Roll version 2 out: edit the weights in $PWD/dynamic/mri.yaml; the next request goes by them.
Logs are in $PWD/run/. Ctrl-C ends all.
TEXT
wait -n "${pids[@]}" || true
echo "run: one of the processes ended; see $PWD/run/" >&2
exit 1
