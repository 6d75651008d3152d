#!/usr/bin/env bash
# Train on several GPUs, or CPU processes where there is no GPU:
#     tools/dist_train.sh CONFIG GPUS [arguments of train.py]
#     tools/dist_train.sh GPUS [arguments of train.py]    the flagship config
# Several machines: see _launch.sh.
set -euo pipefail

if [[ ${1:-} =~ ^[0-9]+$ ]]; then
    set -- upernet_vit-l_ade20k "$@"
fi
if [[ ! ${2:-} =~ ^[0-9]+$ ]]; then
    echo "usage: ${0##*/} [CONFIG] GPUS [arguments of train.py]" >&2
    exit 2
fi
exec bash "$(dirname "$0")/_launch.sh" train.py "$2" "$1" "${@:3}"
