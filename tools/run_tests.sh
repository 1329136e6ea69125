#!/usr/bin/env bash
# Runs the whole test suite in the environment of tools/setup_env.sh; arguments go to pytest:
#   bash tools/run_tests.sh [-m "not slow"] [tests/layers ...]
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
install_once tests install_test_tools
cd "$ROOT"
echo "==> Running the tests"
start=$SECONDS
status=0
"$PYTHON" -m pytest "$@" || status=$?
echo "    took $(took $((SECONDS - start)))"
exit "$status"
