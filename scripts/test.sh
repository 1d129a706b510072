#!/usr/bin/env bash
# Install what tests need into .venv and run them: bash scripts/test.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh requirements.txt requirements-zoo.txt requirements-dev.txt
exec .venv/bin/python -m pytest "$@"
