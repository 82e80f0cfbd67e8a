#!/usr/bin/env bash
# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
# Train on several GPUs, or on several CPU processes where there is no GPU:
#   bash tools/dist_train.sh CONFIG NUM_PROCESSES [arguments of train.py]
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: bash tools/dist_train.sh CONFIG NUM_PROCESSES [arguments]" >&2
    exit 2
fi
config=$1 processes=$2
shift 2
exec python "$(dirname "$0")/launch.py" "$processes" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"
