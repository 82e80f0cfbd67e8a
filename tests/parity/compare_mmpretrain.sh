#!/usr/bin/env bash
# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
# Compare with MMPretrain 1.2.0's own MiniGPT4, which runs on transformers up
# to 4.49 only and so gets an environment of its own.
#   compare_mmpretrain.sh [ENV_FOLDER [--write]]   (work_dirs/mmpretrain_env)
#   MINIGPT4_VENV    our environment               (.venv of the checkout)
#   MINIGPT4_PYTHON  the Python to make theirs with (python3)
# --write keeps what it computes as the reference of test_references.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

theirs=${1:-work_dirs/mmpretrain_env}
ours=${MINIGPT4_VENV:-$PWD/.venv}/bin/python
if [ ! -x "$ours" ]; then
    echo "there is no $ours; run tools/setup_env.sh, or name our" \
        "environment in MINIGPT4_VENV." >&2
    exit 1
fi
if [ ! -x "$theirs/bin/python" ]; then
    echo "making MMPretrain's environment $theirs; this takes minutes"
    "${MINIGPT4_PYTHON:-python3}" -m venv "$theirs"
fi
# our tested versions, but for transformers and what it pins
constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT
grep -vE '^(transformers|tokenizers|huggingface_hub)==' constraints.txt \
    > "$constraints"
"$theirs/bin/python" -m pip --disable-pip-version-check install -q \
    -c "$constraints" mmpretrain==1.2.0 mmengine mmcv-lite torch torchvision \
    transformers==4.49.0 pycocotools==2.0.11 sentencepiece protobuf setuptools
"$ours" tests/parity/make_references.py mmpretrain \
    --python "$theirs/bin/python" "${@:2}"
