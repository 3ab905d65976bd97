#!/usr/bin/env bash
# Gates a checkpoint in any CI system, or before a push:
#
#   CHECKPOINT=models/candidate REFERENCE=models/sft DATA=pairs.jsonl JUDGE=... examples/ci.sh
#
# Writes prefeval-gate.xml (JUnit) and prefeval-gate.md. Exit codes: 0 pass, 1 regression, 2 usage,
# 4 inconclusive, 5 a model or a judge failed. Without a baseline file the first run saves one.
set -euo pipefail

: "${CHECKPOINT:?the checkpoint to gate}"
BASELINE=${BASELINE:-prefeval-baseline.json}
options=(--reference "${REFERENCE:-lab}" --data "${DATA:-lab}" --judge "${JUDGE:-}")
read -r -a more <<<"${OPTIONS:-}" || true
options+=(${more[@]+"${more[@]}"})

if [[ ! -f $BASELINE ]]; then
  echo "no baseline at $BASELINE: saving this checkpoint as the first one; commit it"
  exec prefeval gate "$CHECKPOINT" --save-baseline "$BASELINE" "${options[@]}"
fi

code=0
prefeval gate "$CHECKPOINT" --baseline "$BASELINE" ${POLICY:+--policy "$POLICY"} \
  --junit prefeval-gate.xml --markdown prefeval-gate.md "${options[@]}" || code=$?
case $code in
  4) echo "inconclusive: add prompts, widen the margins, or decide yourself" >&2 ;;
  5) echo "no verdict: a model or a judge failed; run again" >&2 ;;
esac
exit "$code"
