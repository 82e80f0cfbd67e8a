#!/usr/bin/env bash
# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
# Set up the environment and run the whole test suite; arguments go to pytest,
#   bash tools/run_tests.sh tests/test_prompts.py -k stop
# Without -m, it runs all but the tests that need the internet, and those that
# need a GPU only where there is one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash tools/setup_env.sh
python=${MINIGPT4_VENV:-$PWD/.venv}/bin/python
marks='not network'
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
    marks+=' and not gpu'
exec "$python" -m pytest -q --durations=20 -m "$marks" "$@"
