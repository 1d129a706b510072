#!/usr/bin/env bash
# Install what tests need into .venv and run them: bash scripts/test.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh requirements.txt requirements-zoo.txt requirements-dev.txt
# One process a core, a file to a process; each process keeps to one thread where a library asks.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec .venv/bin/python -m pytest -n auto --dist loadfile "$@"
