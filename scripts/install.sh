#!/usr/bin/env bash
# Make .venv and install this project into it: bash scripts/install.sh [requirements file ...]
# Does nothing when the same files were installed before. PYTHON names another interpreter than python3.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- requirements.txt

works() { command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; }

if [ ! -x .venv/bin/python ]; then
  for python in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
    if works "$python"; then break; fi
    python=
  done
  [ -n "$python" ] || { echo "error: no Python >= 3.11 found; install one, or name it: PYTHON=/path/to/python3.12 bash $0" >&2; exit 2; }
  "$python" -m venv .venv || { rm -rf .venv; echo "error: $python cannot make a virtual environment; install its venv package" >&2; exit 2; }
fi

for file in "$@"; do
  stamp=".venv/installed-$(cat "$file" pyproject.toml | sha256sum | cut -c1-16)-$file"
  [ ! -e "$stamp" ] || continue
  echo "installing $file into .venv"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$file"
  touch "$stamp"
done
if [ ! -e .venv/installed-project ] || [ pyproject.toml -nt .venv/installed-project ]; then
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
  touch .venv/installed-project
fi
