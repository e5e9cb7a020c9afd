#!/usr/bin/env bash
# Measure the GPU suite on this machine: the probes, then every part, each within eight minutes.
#
#   bash measurements/run_gpu.sh [FOLDER]       default: measurements
#
# Interrupted or cut short, run it again: what is measured is not measured twice. A part that fails
# does not keep the others from being measured; the exit status says whether any did.
# PYTHON names the interpreter, PAIR the folder of the trained pair (trained there if it is empty).
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
OUT=${1:-measurements}
PAIR=${PAIR:-out/pair-gpu}
LIMIT=480  # seconds of a part
failed=0

part() {
  echo "== $1"
  timeout --signal INT --kill-after 20 "$LIMIT" "$PYTHON" -m reference measure --suite gpu \
    --part "$@" --out "$OUT" --device cuda --minutes 7.5 || failed=1
}

train() {
  timeout --signal INT --kill-after 20 "$LIMIT" \
    "$PYTHON" -m reference train --preset gpu --device cuda --out "$PAIR" "$@"
}

part probes
part plain
part verify
part speculation
if [ ! -d "$PAIR/target" ] || [ ! -d "$PAIR/draft" ]; then
  echo "== training the pair in $PAIR"
  SECONDS=0
  if ! train; then
    # torch.compile needs a C compiler, and says so at once; what ran longer failed for another reason
    if [ "$SECONDS" -lt 150 ]; then train --no-compile || failed=1; else failed=1; fi
  fi
fi
if [ -d "$PAIR/target" ] && [ -d "$PAIR/draft" ]; then
  part trained --pair "$PAIR"
else
  echo "no trained pair in $PAIR; the bundled one takes its place"
  PAIR=bundled
  part trained --pair bundled
fi
part peer --pair "$PAIR"

for folder in "$OUT"/*/; do
  if [ -f "$folder/calibration.json" ] && [ -f "$folder/plain.json" ]; then
    echo "== $folder"
    "$PYTHON" -m specsim.cli compare "$folder" --figures "out/figures/$(basename "$folder")" || failed=1
  fi
done
exit "$failed"
