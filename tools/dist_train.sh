#!/usr/bin/env bash
# Trains with one process per GPU (or, without GPUs, NPROC processes on the CPU):
#   bash tools/dist_train.sh CONFIG NPROC [arguments of tools/train.py]
# On several machines run it on each, with NNODES, NODE_RANK, MASTER_ADDR and PORT in the environment.
source "$(dirname "${BASH_SOURCE[0]}")/dist_run.sh"
(($# >= 2)) || usage "bash tools/dist_train.sh CONFIG NPROC [arguments of tools/train.py]"
config=$1 processes=$2
shift 2
dist_run "$processes" train.py "$config" "$@"
