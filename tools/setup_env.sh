# Sourced by quickstart.sh and run_tests.sh: makes or reuses a virtual environment with the pinned stack
# and this project, and leaves its Python in $PYTHON.
#
#   SLAB_DET_STACK   openmmlab (default), OpenMMLab's packages on Python 3.11 or 3.12; or onedl, the
#                    maintained forks on Python 3.13, 3.12 or 3.11
#   SLAB_DET_VENV    where the environment lies (default: .venv in the repository, .venv-onedl for onedl)
#   SLAB_DET_PYTHON  the Python to make it with (default: the first one found)
#   MAX_JOBS         compilers at a time if mmcv must be built (default: number of CPUs)
#
# A wheel of mmcv that was built is kept in $XDG_CACHE_HOME/slab_det/wheels (default: ~/.cache).

set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
STACK=${SLAB_DET_STACK:-openmmlab}
case $STACK in
    openmmlab) VENV=.venv MMCV=mmcv PYTHONS=(3.11 3.12) OTHERS=('onedl_mm*') ;;
    onedl) VENV=.venv-onedl MMCV=onedl-mmcv PYTHONS=(3.13 3.12 3.11) OTHERS=('mmengine-*' 'mmcv-*' 'mmdet-*') ;;
    *) echo "error: SLAB_DET_STACK=$STACK is not a stack: set it to openmmlab or onedl" >&2; exit 1 ;;
esac
WANTED="Python $(printf ', %s' "${PYTHONS[@]:0:${#PYTHONS[@]}-1}" | cut -c 3-) or ${PYTHONS[-1]}"
PINS=$ROOT/requirements/$STACK
VENV=${SLAB_DET_VENV:-$ROOT/$VENV}
[[ $VENV == /* ]] || VENV=$PWD/$VENV
PYTHON=$VENV/bin/python
LOGS=$VENV/slab_det_logs
CACHE=${XDG_CACHE_HOME:-${HOME:-$VENV}/.cache}/slab_det/wheels
# Packages of the caller's environment must not shadow the pinned ones.
unset PYTHONPATH PYTHONHOME
export PYTHONNOUSERSITE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

fail() {
    echo "error: $*" >&2
    exit 1
}

took() {  # took SECONDS
    if (($1 < 60)); then echo "$1 s"; else echo "$(($1 / 60)) min $(($1 % 60)) s"; fi
}

heartbeat() {  # heartbeat LOG: a sign of life every half minute, with ninja's count if there is one
    local start=$SECONDS count
    # A sleep that outlives us must not keep the caller's pipe open.
    while sleep 30 >/dev/null 2>&1; do
        kill -0 $$ 2>/dev/null || return  # the script was stopped
        count=$(grep -oE '^ *\[[0-9]+/[0-9]+\]' "$1" | tail -n 1 | tr -d ' ' || true)
        echo "    ... $(took $((SECONDS - start)))${count:+, $count files compiled}"
    done
}

# step NAME WHAT COMMAND...: says what is done and how long it took, keeps the output in LOGS/NAME.log.
# A command that fails ends the script, unless the step is tried with may_fail=1.
step() {
    local name=$1 what=$2 start=$SECONDS status=0 log=$LOGS/$1.log pulse
    shift 2
    mkdir -p "$LOGS" || fail "the folder $LOGS cannot be made, set SLAB_DET_VENV to a place that you may write to"
    : >"$log" || fail "$log cannot be written: is the disk full?"
    echo "==> $what"
    heartbeat "$log" &
    pulse=$!
    "$@" >"$log" 2>&1 || status=$?
    kill "$pulse" 2>/dev/null || true
    wait "$pulse" 2>/dev/null || true
    if ((status == 0)); then
        echo "    done in $(took $((SECONDS - start)))"
    elif [[ ${may_fail:-} == 1 ]]; then
        return "$status"
    else
        explain "$name" "$what" "$log"
    fi
}

explain() {  # explain NAME WHAT LOG: one sentence on why a step failed
    if grep -qiE 'no space left on device|disk quota exceeded' "$3" || [[ $(free_mib "$VENV") -lt 50 ]]; then
        fail "the disk is full ($(free_mib "$VENV") MiB left at $VENV): free 8 GB, or set SLAB_DET_VENV and TMPDIR to places that have them; details in $3"
    elif grep -qE 'Could not find a version|No matching distribution' "$3"; then
        fail "pip found no package for '$(grep -oE 'No matching distribution found for .*|requirement [^ ]+' "$3" | tail -n 1 | sed -E 's/.*(for|requirement) //')': check the network and pip's index settings; details in $3"
    fi
    fail "'$2' failed: $(grep -iE 'error' "$3" | tail -n 1 | cut -c 1-300); details in $3"
}

free_mib() {  # free_mib PATH: of the file system that holds PATH or its nearest existing parent
    local path=$1
    while [[ ! -e $path ]]; do path=$(dirname "$path"); done
    df -Pm "$path" | awk 'NR == 2 {print $4}'
}

usable_python() {  # a shim may exist and fail, a system Python may lack venv
    "$1" -c 'import sys, venv, ensurepip; sys.exit("%d.%d" % sys.version_info[:2] not in sys.argv)' \
        "${PYTHONS[@]}" >/dev/null 2>&1
}

find_python() {
    local candidate
    if [[ -n ${SLAB_DET_PYTHON:-} ]]; then
        usable_python "$SLAB_DET_PYTHON" || fail "SLAB_DET_PYTHON=$SLAB_DET_PYTHON is not a working $WANTED with the venv module, which the stack $STACK needs: name one that is, or unset it"
        echo "$SLAB_DET_PYTHON"
        return
    fi
    local candidates=("${PYTHONS[@]/#/python}" python3 python) version
    for version in "${PYTHONS[@]}"; do
        candidates+=("${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python)
    done
    for candidate in "${candidates[@]}"; do
        if usable_python "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "no working $WANTED with the venv module was found for the stack $STACK (python3 is $(python3 -V 2>&1 | head -n 1)): install one, such as the packages python${PYTHONS[0]} and python${PYTHONS[0]}-venv, or name it in SLAB_DET_PYTHON"
}

make_venv() {
    local base other
    if [[ -d $VENV && ! -e $VENV/pyvenv.cfg && -n $(ls -A "$VENV") ]]; then
        fail "$VENV is not empty and not a virtual environment: set SLAB_DET_VENV to another folder"
    fi
    if [[ -x $PYTHON ]] && "$PYTHON" -m pip --version >/dev/null 2>&1; then
        usable_python "$PYTHON" || fail "the environment $VENV has $("$PYTHON" -V 2>&1), the stack $STACK needs $WANTED: remove it, or set SLAB_DET_VENV to another folder"
        for other in "${OTHERS[@]}"; do
            if compgen -G "$VENV/lib/python3*/site-packages/$other.dist-info" >/dev/null; then
                fail "the environment $VENV has packages of the other stack than $STACK, whose modules have the same names: set SLAB_DET_VENV to another folder, or SLAB_DET_STACK to the stack that is there"
            fi
        done
        return
    fi
    base=$(find_python) || exit 1
    if [[ $(free_mib "$VENV") -lt 8000 ]]; then
        fail "$(free_mib "$VENV") MiB are free at $VENV and the stack takes 8000: free some, or set SLAB_DET_VENV to a place that has them"
    fi
    mkdir -p "$VENV" 2>/dev/null || fail "the folder $VENV cannot be made: set SLAB_DET_VENV to a place that you may write to"
    step venv "Making the virtual environment $VENV with $("$base" -V)" "$base" -m venv "$VENV"
}

pip_install() { "$PYTHON" -m pip install "$@"; }

mmcv_works() {  # its operators were built, and for this torch
    "$PYTHON" -c 'import torch, mmcv.ops as ops; ops.nms(torch.eye(4)[:2], torch.ones(2), 0.5)' >/dev/null 2>&1
}

check_compiler() {
    local header
    command -v "${CXX:-c++}" >/dev/null || fail "no wheel of mmcv for this torch was found and there is no C++ compiler ${CXX:-c++} to build it: install one (such as the package g++), or name a folder that holds a wheel in PIP_FIND_LINKS"
    header=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
    [[ -e $header ]] || fail "no wheel of mmcv for this torch was found and $header, needed to build it, is missing: install the development files of this Python (such as the package python3-dev)"
}

builds_cuda() {  # mmcv's setup.py builds CUDA operators where torch sees a GPU; that takes nvcc
    command -v nvcc >/dev/null || [[ -n ${CUDA_HOME:-} ]] || return 1
    [[ ${FORCE_CUDA:-} == 1 ]] || "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'
}

# build_mmcv FOLDER: leaves a wheel there. -v: ninja's counts reach the log, for the heartbeat. CFLAGS take
# the place of Python's own options, so without -O2 the operators would not be optimized.
build_mmcv() {
    local build=$VENV/slab_det_build environment
    environment=(MMCV_WITH_OPS=1 "CFLAGS=-O2 -g0" "CXXFLAGS=-O2 -g0" "MAX_JOBS=${MAX_JOBS:-$(nproc)}")
    environment+=("PATH=$(dirname "$PYTHON"):$PATH")  # ninja is there
    rm -rf "$build" "$1.part"
    mkdir -p "$build" "$1.part" &&
        "$PYTHON" -m pip download --no-deps --no-build-isolation --no-binary="$MMCV" -d "$build" \
            "$(grep "^$MMCV==" "$PINS/mmcv.txt")" || return
    if builds_cuda; then
        compile_mmcv "$build" "$1.part" true
    else
        environment+=(CUDA_VISIBLE_DEVICES= FORCE_CUDA=0)
        # Where merged sources do not compile they are taken as they are.
        compile_mmcv "$build" "$1.part" "$PYTHON" "$ROOT/tools/merge_sources.py" ||
            compile_mmcv "$build" "$1.part" true
    fi && rm -rf "$build" "$1" && mv "$1.part" "$1"
}

# compile_mmcv FOLDER OUT CHANGE...: a wheel of the source archive in FOLDER, after CHANGE of its files.
compile_mmcv() {
    local source=$1/source out=$2
    rm -rf "$source"
    mkdir "$source" && tar -xzf "$1"/*.tar.gz -C "$source" && "${@:3}" "$source"/* &&
        env "${environment[@]}" "$PYTHON" -m pip wheel -v --no-deps --no-build-isolation -w "$out" "$source"/*
}

# install_wheel FOLDER: mmcv from the wheel there, and the pinned versions of what it needs.
install_wheel() { pip_install --only-binary="$MMCV" -r "$PINS/mmcv.txt" "$1"/*.whl; }

remove_mmcv() { "$PYTHON" -m pip uninstall -y "$MMCV"; }

install_mmcv() {
    local built
    if mmcv_works; then return; fi
    # A wheel fits one torch, one Python and one kind of machine.
    built=$CACHE/$(grep "^$MMCV==" "$PINS/mmcv.txt")-torch$(wheel_tags)
    if compgen -G "$built/*.whl" >/dev/null; then
        if may_fail=1 step mmcv_cached "Installing the mmcv that an earlier set-up has built ($built)" \
            install_wheel "$built" && mmcv_works; then return; fi
        step mmcv_remove "Removing it, its operators cannot be imported" remove_mmcv
        rm -rf "$built"
    fi
    if may_fail=1 step mmcv_wheel "Looking for a wheel of mmcv for this torch" \
        pip_install --only-binary="$MMCV" -r "$PINS/mmcv.txt"; then
        if mmcv_works; then return; fi
        echo "    it was built for another torch"
        step mmcv_remove "Removing it" remove_mmcv
    else
        echo "    none found"
    fi
    check_compiler
    mkdir -p "$CACHE" 2>/dev/null || built=$VENV/slab_det_wheels/mmcv
    step mmcv_build "Building mmcv's operators from source (minutes on 2 CPUs)" build_mmcv "$built"
    step mmcv_install "Installing them" install_wheel "$built"
    mmcv_works || fail "mmcv was built but its operators cannot be imported: details in $LOGS/mmcv_build.log"
}

wheel_tags() {
    "$PYTHON" -c 'import platform, sys, torch; print(torch.__version__, f"cp{sys.version_info[0]}{sys.version_info[1]}", platform.machine(), sep="-")'
}

digest() {  # of all that decides what is installed
    (cd "$ROOT" && echo "$ROOT" && cat requirements/*.txt "$PINS"/*.txt setup.py slab_det/version.py) | sha256sum
}

# install_once GROUP COMMAND: runs the command unless it has run for what digest sees.
install_once() {
    local stamp=$VENV/.slab_det_$1
    if [[ -e $stamp && $(cat "$stamp") == "$(digest)" ]]; then return; fi
    rm -f "$stamp"
    "$2"
    digest >"$stamp"
}

install_stack() {
    if ! "$PYTHON" -c 'import torch' 2>/dev/null; then
        echo "    torch and its CUDA libraries, fetched next, take about 5 GB on the disk; for a CPU-only torch of"
        echo "    about 1 GB stop here and set PIP_EXTRA_INDEX_URL to PyTorch's index of CPU builds."
    fi
    step torch "Installing torch and torchvision (5 GB)" \
        pip_install -r "$PINS/torch.txt" -r "$ROOT/requirements/build.txt"
    install_mmcv
    # onedl-mmdetection comes as source that imports what is installed.
    step stack "Installing mmengine, mmdet and timm" \
        pip_install --no-build-isolation -r "$PINS/stack.txt"
    step slab_det "Installing slab-det from $ROOT" pip_install --no-build-isolation -e "$ROOT"
}

install_test_tools() {
    # openmim's dependencies may take setuptools below what building needs, hence build.txt again.
    step test_tools "Installing pytest and mim" \
        pip_install -r "$ROOT/requirements/tests.txt" -r "$PINS/mim.txt" \
        -r "$ROOT/requirements/examples.txt"
    step setuptools "Restoring setuptools" pip_install -r "$ROOT/requirements/build.txt"
}

make_venv
install_once stack install_stack
echo "==> Using the stack $STACK on $("$PYTHON" -V) in $VENV (after $(took $SECONDS))"
