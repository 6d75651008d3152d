#!/usr/bin/env bash
# Test on several GPUs, or CPU processes where there is no GPU:
#     tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of test.py]
# Several machines: see _launch.sh.
set -euo pipefail

if [[ ! ${3:-} =~ ^[0-9]+$ ]]; then
    echo "usage: ${0##*/} CONFIG CHECKPOINT GPUS [arguments of test.py]" >&2
    exit 2
fi
exec bash "$(dirname "$0")/_launch.sh" test.py "$3" "$1" "$2" "${@:4}"
