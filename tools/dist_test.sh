#!/usr/bin/env bash
# Evaluates with one process per GPU (or, without GPUs, NPROC processes on the CPU):
#   bash tools/dist_test.sh CONFIG CHECKPOINT NPROC [arguments of tools/test.py]
# On several machines run it on each, with NNODES, NODE_RANK, MASTER_ADDR and PORT in the environment.
source "$(dirname "${BASH_SOURCE[0]}")/dist_run.sh"
(($# >= 3)) || usage "bash tools/dist_test.sh CONFIG CHECKPOINT NPROC [arguments of tools/test.py]"
config=$1 checkpoint=$2 processes=$3
shift 3
dist_run "$processes" test.py "$config" "$checkpoint" "$@"
