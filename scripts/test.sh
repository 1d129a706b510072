#!/usr/bin/env bash
# Install what tests need into .venv and run them: bash scripts/test.sh [--slow] [pytest arguments]
# Tests marked `slow` run with --slow only: large networks and whole grids, of which a smaller sibling always runs.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh requirements.txt requirements-zoo.txt requirements-dev.txt
chosen=(-m "not slow")
if [ "${1-}" = --slow ]; then
  chosen=(-m "slow or not slow")
  shift
fi
# Compiled programs are kept for the processes beside this one and for the next run; each kind of processor has its own.
kind="$(uname -m)-$( (grep -m 2 -E "^(model name|flags|CPU part|Features)" /proc/cpuinfo || true) 2>/dev/null | cksum | cut -d " " -f 1)"
own="${XDG_CACHE_HOME:-$HOME/.cache}/ne_jax/tests/$kind"
if [ -d "$own" ]; then find "$own" -type f -mtime +30 -delete; fi # what was made a month ago goes
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR-$own}"
# All of them, most of which take less than a second; without a limit of size, for which JAX would read all files at each new one.
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="${JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS:-0}"
# One process a core (tests/schedule.py says what each runs), which keeps to one thread where a library asks.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec .venv/bin/python -m pytest -n auto --no-loadscope-reorder "${chosen[@]}" "$@"
