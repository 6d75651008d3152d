#!/usr/bin/env bash
# Test on a Slurm cluster; what to ask for: see _slurm.sh.
#     tools/slurm_test.sh PARTITION CONFIG CHECKPOINT [arguments of test.py]
set -euo pipefail

if (($# < 3)); then
    echo "usage: ${0##*/} PARTITION CONFIG CHECKPOINT [arguments]" >&2
    exit 2
fi
exec bash "$(dirname "$0")/_slurm.sh" test.py "$@"
