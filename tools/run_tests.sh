#!/usr/bin/env bash
# Runs the whole test suite in the environment of tools/setup_env.sh; arguments go to pytest:
#   bash tools/run_tests.sh [-m "not slow"] [tests/layers ...]
#
# Files of tests run in parallel, one thread each, in the order of tests/conftest.py; -n 0 runs them
# one after another.
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
install_once tests install_test_tools
cd "$ROOT"
echo "==> Running the tests"
start=$SECONDS
status=0
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
"$PYTHON" -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@" || status=$?
echo "    took $(took $((SECONDS - start)))"
exit "$status"
