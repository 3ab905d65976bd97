#!/usr/bin/env bash
# Gates a checkpoint in any CI system, or before a push:
#
#   CHECKPOINT=models/candidate REFERENCE=models/sft DATA=pairs.jsonl JUDGE=... examples/ci.sh
#
# Writes prefeval-gate.xml (JUnit) and prefeval-gate.md. Exit codes: 0 pass, 1 regression, 2 usage,
# 4 inconclusive, 5 a model or a judge failed. With SAVE_BASELINE=1 the checkpoint becomes the baseline
# instead; without that a missing baseline is an error, never a pass.
set -euo pipefail

: "${CHECKPOINT:?the checkpoint to gate}"
BASELINE=${BASELINE:-prefeval-baseline.json}
options=(--reference "${REFERENCE:-lab}" --data "${DATA:-lab}" --judge "${JUDGE:-}")
read -r -d '' -a more <<<"${OPTIONS:-}" || true
options+=(${more[@]+"${more[@]}"})

if [[ ${SAVE_BASELINE:-} == 1 ]]; then
  exec prefeval gate --save-baseline "$BASELINE" "${options[@]}" -- "$CHECKPOINT"
fi

code=0
prefeval gate --baseline "$BASELINE" ${POLICY:+--policy "$POLICY"} --junit prefeval-gate.xml \
  --markdown prefeval-gate.md "${options[@]}" -- "$CHECKPOINT" || code=$?
case $code in
  2) echo "no verdict; a first baseline is saved with SAVE_BASELINE=1" >&2 ;;
  4) echo "inconclusive: add prompts, widen the margins, or decide yourself" >&2 ;;
  5) echo "no verdict: a model or a judge failed; run again" >&2 ;;
esac
exit "$code"
