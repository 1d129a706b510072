#!/usr/bin/env bash
# N processes of one job on this machine: bash scripts/launch_local.sh N --config=FILE --workdir=DIR --stage=encode
# What a cluster's launcher does, for trying it out. Each process writes to stderr with its number in front; PYTHON names the interpreter.
set -uo pipefail
case "${1:-}" in
  ''|*[!0-9]*|0) echo "error: give the number of processes first: bash $0 2 --config=... --workdir=... --stage=encode" >&2; exit 2 ;;
esac
count=$1; shift
python=${PYTHON:-$(dirname "$0")/../.venv/bin/python}
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
pids=()
trap 'kill "${pids[@]}" 2>/dev/null' INT TERM
for ((index = 0; index < count; index++)); do
  "$python" -m ne_jax.main --distributed --coordinator="127.0.0.1:$port" --num_processes="$count" --process_id="$index" "$@" \
    2> >(sed -u "s/^/[$index] /" >&2) &
  pids+=($!)
done
status=0
for ((left = count; left > 0; left--)); do  # the first that fails ends the others, which would wait for it
  wait -n || { code=$?; [ "$status" -ne 0 ] || { status=$code; kill "${pids[@]}" 2>/dev/null; }; }
done
wait "${pids[@]}" 2>/dev/null  # a signal ends a wait before its process has ended
exit "$status"
