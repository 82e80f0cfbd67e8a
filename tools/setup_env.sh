#!/usr/bin/env bash
# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
# Create or update the virtual environment with the tested versions.
#   MINIGPT4_VENV         its folder                    (.venv of the checkout)
#   MINIGPT4_PYTHON       the Python to create it with  (python3)
#   MINIGPT4_CONSTRAINTS  the versions; empty: newest   (constraints.txt)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${MINIGPT4_VENV:-$PWD/.venv}
python=${MINIGPT4_PYTHON:-python3}
constraints=${MINIGPT4_CONSTRAINTS-constraints.txt}

check_python() {
    local found
    found=$("$1" -c 'import platform; print("Python", platform.python_version())' \
        2>/dev/null) || found='no Python'
    case $found in
    'Python 3.10.'* | 'Python 3.11.'* | 'Python 3.12.'*) ;;
    *)
        echo "$1 is $found, but 3.10, 3.11 or 3.12 is needed: $2" >&2
        exit 1
        ;;
    esac
}

if [ -x "$venv/bin/python" ]; then
    check_python "$venv/bin/python" "remove the folder $venv and run this again."
else
    check_python "$python" 'install one and name it in MINIGPT4_PYTHON.'
fi

files=(pyproject.toml setup.py)
[ -z "$constraints" ] || files+=("$constraints")
stamp="$PWD ${constraints:-newest} $(cat "${files[@]}" | cksum)"
if [ "$(cat "$venv/.minigpt4_stamp" 2>/dev/null)" = "$stamp" ]; then
    echo "environment $venv is up to date"
    exit 0
fi

if [ ! -x "$venv/bin/python" ]; then
    echo "creating the environment $venv with $python"
    "$python" -m venv "$venv"
fi
echo "installing the package and the requirements of its tests" \
    "(${constraints:-newest versions}); the first time takes minutes"
pip=("$venv/bin/python" -m pip --disable-pip-version-check install)
[ -t 1 ] || pip+=(-q)
"${pip[@]}" -e '.[test]' ${constraints:+-c "$constraints"}
echo "$stamp" > "$venv/.minigpt4_stamp"
echo "done: source $venv/bin/activate"
