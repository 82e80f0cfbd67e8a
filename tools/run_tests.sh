#!/usr/bin/env bash
# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
# Set up the environment and run all tests; arguments go to pytest, e.g.
#   bash tools/run_tests.sh tests/test_prompts -k stop
# Without arguments one process on each core, at most four, runs test files.
# Without -m it skips tests that need the internet, and on a machine without a
# GPU those that need one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash tools/setup_env.sh
python=${MINIGPT4_VENV:-$PWD/.venv}/bin/python
# idle OpenMP threads sleep soon (projects/minigpt4_cli/openmp.py)
[ -n "${GOMP_SPINCOUNT-}${OMP_WAIT_POLICY-}" ] || export GOMP_SPINCOUNT=10000
marks='not network'
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
    marks+=' and not gpu'
[ $# -gt 0 ] || set -- -n auto --maxprocesses 4 --dist loadfile
exec "$python" -m pytest -q --durations=20 -m "$marks" "$@"
