#!/usr/bin/env bash
# Evaluate on several GPUs, or on several CPU processes where there is no GPU:
#   bash tools/dist_test.sh CONFIG CHECKPOINT NUM_PROCESSES [arguments of test.py]
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: bash tools/dist_test.sh CONFIG CHECKPOINT NUM_PROCESSES [arguments]" >&2
    exit 2
fi
config=$1 checkpoint=$2 processes=$3
shift 3
exec python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" --nproc_per_node="$processes" \
    "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
