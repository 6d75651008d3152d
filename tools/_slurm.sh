#!/usr/bin/env bash
# Start a tool of this folder on a Slurm cluster, one task a GPU:
#     _slurm.sh TOOL.py PARTITION [arguments of the tool]
# GPUS (default 8), GPUS_PER_NODE (8, or GPUS if that is less), CPUS_PER_TASK
# (5) and SRUN_ARGS say what to ask for. GPUS_PER_NODE=0 asks for no GPU: the
# GPUS tasks run on CPUs, over gloo.
set -euo pipefail

TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TOOL=$1
PARTITION=$2
shift 2

GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}
REQUEST=(--ntasks "$GPUS" --cpus-per-task "${CPUS_PER_TASK:-5}")
if ((GPUS_PER_NODE > 0)); then
    REQUEST+=(
        --gres "gpu:$GPUS_PER_NODE" --ntasks-per-node "$GPUS_PER_NODE"
    )
fi

if [[ -f $TOOLS/../pyproject.toml ]]; then
    export PYTHONPATH="${TOOLS%/*}${PYTHONPATH:+:$PYTHONPATH}"
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export MKL_NUM_THREADS=${MKL_NUM_THREADS:-$OMP_NUM_THREADS}

# shellcheck disable=SC2086  # SRUN_ARGS is a list
exec srun --partition "$PARTITION" --job-name "${TOOL%.py}" "${REQUEST[@]}" \
    --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$TOOLS/$TOOL" "$@" --launcher slurm
