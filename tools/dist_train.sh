#!/usr/bin/env bash
# Train on several GPUs, or on several CPU processes where there is no GPU:
#   bash tools/dist_train.sh CONFIG NUM_PROCESSES [arguments of train.py]
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: bash tools/dist_train.sh CONFIG NUM_PROCESSES [arguments]" >&2
    exit 2
fi
config=$1 processes=$2
shift 2
exec python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" --nproc_per_node="$processes" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"
