#!/usr/bin/env bash
# Start a tool of this folder as several processes with torchrun:
#     _launch.sh TOOL.py PROCESSES [arguments of the tool]
# One machine needs nothing else. On each of several machines set NNODES,
# NODE_RANK and MASTER_ADDR (PORT: 29500 by default, free on MASTER_ADDR).
set -euo pipefail

TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TOOL=$1
PROCESSES=$2
shift 2

if [[ ${NNODES:-1} == 1 && -z ${PORT:-} ]]; then
    RENDEZVOUS=(--standalone)
else
    RENDEZVOUS=(
        --nnodes "${NNODES:-1}" --node-rank "${NODE_RANK:-0}"
        --master-addr "${MASTER_ADDR:-127.0.0.1}"
        --master-port "${PORT:-29500}"
    )
fi

# A checkout works without being installed.
if [[ -f $TOOLS/../pyproject.toml ]]; then
    export PYTHONPATH="${TOOLS%/*}${PYTHONPATH:+:$PYTHONPATH}"
fi
# Processes of one machine share its cores; data workers are processes too.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export MKL_NUM_THREADS=${MKL_NUM_THREADS:-$OMP_NUM_THREADS}

exec "${PYTHON:-python}" -m torch.distributed.run "${RENDEZVOUS[@]}" \
    --nproc-per-node "$PROCESSES" "$TOOLS/$TOOL" "$@" --launcher pytorch
