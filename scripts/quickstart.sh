#!/usr/bin/env bash
# Install into .venv and run the main job on the embedded data: the first 2,000 test images of Fashion-MNIST.
# Safe to run again: what is installed and what is done is not done twice.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh requirements.txt
exec .venv/bin/python -m ne_jax.main --config=configs/quickstart.py --workdir=runs/quickstart --stage=all "$@"
