# Sourced by dist_train.sh and dist_test.sh.
#
#   NNODES       number of machines (default 1)
#   NODE_RANK    which of them this is, from 0 (default 0)
#   MASTER_ADDR  address of machine 0 (default 127.0.0.1)
#   PORT         a free port of machine 0 (default 29500)
#   PYTHON       the Python of the environment (default python)

set -euo pipefail

usage() {
    echo "error: usage: $1" >&2
    exit 2
}

dist_run() {  # dist_run NPROC TOOL ARGUMENTS...
    local processes=$1 tool
    tool=$(dirname "${BASH_SOURCE[0]}")/$2
    shift 2
    [[ $processes =~ ^[1-9][0-9]*$ ]] || usage "NPROC is the number of processes per machine, got '$processes'"
    exec "${PYTHON:-python}" -m torch.distributed.run \
        --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$processes" \
        --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
        "$tool" "$@" --launcher pytorch
}
