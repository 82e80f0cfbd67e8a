#!/usr/bin/env bash
# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
# Evaluate on several GPUs, or on several CPU processes where there is no GPU:
#   bash tools/dist_test.sh CONFIG CHECKPOINT NUM_PROCESSES [arguments of test.py]
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: bash tools/dist_test.sh CONFIG CHECKPOINT NUM_PROCESSES [arguments]" >&2
    exit 2
fi
config=$1 checkpoint=$2 processes=$3
shift 3
exec python "$(dirname "$0")/launch.py" "$processes" \
    "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
