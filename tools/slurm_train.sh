#!/usr/bin/env bash
# Trains on a cluster that slurm runs:
#   GPUS=16 bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of tools/train.py]
#
#   GPUS           number of GPUs (default 8)
#   GPUS_PER_NODE  of one machine (default 8, at most GPUS)
#   CPUS_PER_TASK  CPUs for each GPU (default 5)
#   SRUN_ARGS      further arguments of srun
#   PYTHON         the Python of the environment (default python)

set -euo pipefail
if (($# < 4)); then
    echo "error: usage: bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of tools/train.py]" >&2
    exit 2
fi
partition=$1 job=$2 config=$3 work_dir=$4
shift 4
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
command -v srun >/dev/null || { echo "error: srun was not found: run this on a machine of the cluster, or use tools/dist_train.sh" >&2; exit 1; }
# SRUN_ARGS is a list of words.
# shellcheck disable=SC2086
exec srun --partition="$partition" --job-name="$job" --ntasks="$gpus" --ntasks-per-node="$per_node" \
    --gres="gpu:$per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "${BASH_SOURCE[0]}")/train.py" "$config" --work-dir "$work_dir" \
    --launcher slurm "$@"
