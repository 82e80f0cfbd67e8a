#!/usr/bin/env bash
# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
# Run all of MiniGPT-4 on a laptop: render data, train both stages of the nano
# model, evaluate before and after stage 2, caption held-out scenes.
#   bash tools/quickstart.sh [OUTPUT FOLDER, default work_dirs/quickstart]
set -euo pipefail
out=$(realpath -m "${1:-work_dirs/quickstart}")
cd "$(dirname "$0")/.."
bash tools/setup_env.sh
source "${MINIGPT4_VENV:-.venv}/bin/activate"
configs=configs/minigpt4
mkdir -p "$out"

log=$out/quickstart.log
trap 'echo "stopped by an error; the complete output is in $log" >&2' ERR
progress='Iter\(|skipped|Error|captions at|^  [0-9]+: | are in |gallery: |[│┃━]|held-out scenes of'
: > "$log"
SECONDS=0

step() { printf '\n== %s (%d s so far)\n' "$1" "$SECONDS" | tee -a "$log"; }

# Run a tool; its output goes to the log, its progress to the screen.
run() {
    python "$@" 2>&1 | tee -a "$log" | { grep --line-buffered -E "$progress" || true; }
}

step 'render the nano data set'
run tools/nano_data.py --out data/nano
step 'stage 1: align on captions'
run tools/train.py $configs/stage1_nano.py --work-dir "$out/stage1"
stage1=$(ls -t "$out"/stage1/iter_*.pth | head -1)
step 'evaluate before stage 2'
run tools/test.py $configs/stage2_nano.py "$stage1" \
    --work-dir "$out/test1" --out "$out/scores_stage1.json"
step 'stage 2: learn to describe'
run tools/train.py $configs/stage2_nano.py --work-dir "$out/stage2" \
    --cfg-options load_from="$stage1"
stage2=$(ls -t "$out"/stage2/iter_*.pth | head -1)
step 'evaluate after stage 2'
run tools/test.py $configs/stage2_nano.py "$stage2" \
    --work-dir "$out/test2" --out "$out/scores_stage2.json"
step 'caption held-out scenes'
run tools/gallery.py --stage1 "$stage1" --stage2 "$stage2" \
    --scores1 "$out/scores_stage1.json" --scores2 "$out/scores_stage2.json" \
    --out "$out/gallery"
step 'done'
echo "data: data/nano   checkpoints, logs, scores, gallery: $out"
echo "to continue: source ${MINIGPT4_VENV:-.venv}/bin/activate"
