#!/usr/bin/env bash
# Train on a Slurm cluster; what to ask for: see _slurm.sh.
#     tools/slurm_train.sh PARTITION CONFIG [arguments of train.py]
set -euo pipefail

if (($# < 2)); then
    echo "usage: ${0##*/} PARTITION CONFIG [arguments of train.py]" >&2
    exit 2
fi
exec bash "$(dirname "$0")/_slurm.sh" train.py "$@"
