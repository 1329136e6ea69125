"""tools/setup_env.sh with a Python that only pretends, so that nothing is installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = (
    'awk',
    'bash',
    'cat',
    'cp',
    'cut',
    'df',
    'dirname',
    'env',
    'grep',
    'gzip',
    'head',
    'ls',
    'mkdir',
    'mv',
    'nproc',
    'rm',
    'sed',
    'sha256sum',
    'sleep',
    'tail',
    'tar',
    'touch',
    'tr',
)
PYTHON = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
case "$*" in
    *mmcv.ops*) [[ ! -e $VENV_MARK ]] || exit 0; exit "${MMCV_STATUS:-0}" ;;
    *platform.machine*) echo "2.11.0-cp312-x86_64" ;;
    *--only-binary=*.whl) [[ -z ${BUILT_STATUS:-} ]] || touch "$VENV_MARK"; exit 0 ;;
    *--only-binary=*) exit "${WHEEL_STATUS:-0}" ;;
    "-m pip download "*) mkdir -p "$FOLDER/mmcv-2"
        tar -czf "${*: -2:1}/mmcv-2.tar.gz" -C "$FOLDER" mmcv-2 ;;
    "-m pip wheel "*) echo "wheel" >"${*: -2:1}/mmcv-2-cp312.whl" ;;
    -V) echo "Python ${FAKE_VERSION:-3.12.1}" ;;
    *version_info*) exit "${FITS_STATUS:-0}" ;;
    "-m venv "*) echo "${VENV_MESSAGE:-}"; [[ -z ${VENV_MESSAGE:-} ]] || exit 1
        mkdir -p "$3/bin"; touch "$3/pyvenv.cfg"; cp "$0" "$3/bin/python" ;;
    *get_path*) echo /nonexistent ;;
esac
"""
BROKEN = '#!/usr/bin/env bash\necho "shim: version not installed" >&2\nexit 127\n'


@pytest.fixture
def shell(tmp_path):
    """Sources setup_env.sh where PATH holds nothing but the named tools."""
    bin_dir = tmp_path / 'bin'
    bin_dir.mkdir()
    for tool in TOOLS:
        (bin_dir / tool).symlink_to(shutil.which(tool))

    class Shell:
        venv = tmp_path / 'venv'
        calls = tmp_path / 'calls'

        def put(self, name, content):
            (bin_dir / name).unlink(missing_ok=True)
            (bin_dir / name).write_text(content)
            (bin_dir / name).chmod(0o755)

        def source(self, **environment):
            self.calls.write_text('')
            variables = dict(
                PATH=str(bin_dir),
                HOME=str(tmp_path),
                CALLS=str(self.calls),
                FOLDER=str(tmp_path),
                SLAB_DET_VENV=str(self.venv),
                VENV_MARK=str(tmp_path / 'operators_work'),
            )
            variables.update(environment)
            return subprocess.run(
                ['bash', '-c', f'source {ROOT}/tools/setup_env.sh && echo PYTHON=$PYTHON'],
                env=variables,
                capture_output=True,
                text=True,
                check=False,
            )

        def refused(self, **environment):
            done = self.source(**environment)
            assert done.returncode == 1, done.stdout
            assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1
            return done.stderr

    return Shell()


def test_installs_once(shell):
    shell.put('python3.12', PYTHON)
    first = shell.source()
    assert first.returncode == 0, first.stderr
    assert f'PYTHON={shell.venv}/bin/python' in first.stdout
    steps = [line for line in first.stdout.splitlines() if line.startswith('==>')]
    assert (
        len(steps) == 5
        and 'virtual environment' in steps[0]
        and 'torch and torchvision' in steps[1]
    )
    assert first.stdout.count('done in') == 4
    installs = [
        line for line in shell.calls.read_text().splitlines() if line.startswith('-m pip install')
    ]
    assert 'torch.txt' in installs[0] and installs[-1].endswith(f'--no-build-isolation -e {ROOT}')

    again = shell.source()
    assert again.returncode == 0 and 'pip install' not in shell.calls.read_text()
    assert 'done in' not in again.stdout


def test_a_shim_that_fails_is_skipped(shell):
    shell.put('python3.11', BROKEN)
    shell.put('python3', PYTHON)
    assert shell.source().returncode == 0
    assert f'-m venv {shell.venv}' in shell.calls.read_text()


def test_without_a_fitting_python_nothing_is_made(shell):
    shell.put('python3.11', BROKEN)
    shell.put('python3', PYTHON)
    error = shell.refused(FITS_STATUS='1', FAKE_VERSION='3.10.2')
    assert (
        'no working Python 3.11 or 3.12 with the venv module was found for the stack openmmlab'
        in error
    )
    assert 'python3 is Python 3.10.2' in error
    assert not shell.venv.exists()


def test_a_named_python_must_fit(shell):
    shell.put('mine', BROKEN)
    shell.put('python3.11', PYTHON)
    assert 'SLAB_DET_PYTHON=mine is not a working Python' in shell.refused(SLAB_DET_PYTHON='mine')


def test_a_folder_with_other_things_is_refused(shell):
    shell.venv.mkdir()
    (shell.venv / 'photos').write_text('')
    assert f'{shell.venv} is not empty and not a virtual environment' in shell.refused()
    assert os.listdir(shell.venv) == ['photos']


def test_an_environment_of_another_python_is_refused(shell):
    shell.put('python3.12', PYTHON)
    assert shell.source().returncode == 0
    assert 'has Python 3.13.0, the stack openmmlab needs Python 3.11 or 3.12' in shell.refused(
        FITS_STATUS='1', FAKE_VERSION='3.13.0'
    )


def test_too_little_room_is_said_before_anything_is_made(shell):
    shell.put('python3.12', PYTHON)
    shell.put(
        'df',
        '#!/usr/bin/env bash\nprintf "Filesystem M U A C M\\n/dev/x 9000 8000 1000 90%% /\\n"\n',
    )
    assert f'1000 MiB are free at {shell.venv} and the stack takes 8000' in shell.refused()
    assert not shell.venv.exists()


def test_a_disk_that_fills_up_is_said(shell):
    shell.put('python3.12', PYTHON)
    error = shell.refused(VENV_MESSAGE='OSError: [Errno 28] No space left on device')
    assert 'the disk is full' in error and 'venv.log' in error


def test_a_missing_compiler_is_said(shell):
    shell.put('python3.12', PYTHON)
    error = shell.refused(MMCV_STATUS='1', WHEEL_STATUS='1')
    assert 'no C++ compiler c++' in error and 'PIP_FIND_LINKS' in error
    shell.put('c++', '#!/usr/bin/env bash\n')
    assert '/nonexistent/Python.h' in shell.refused(MMCV_STATUS='1', WHEEL_STATUS='1')


def test_operators_that_do_not_import_are_refused(shell):
    shell.put('python3.12', PYTHON.replace('/nonexistent', str(shell.venv)))
    shell.put('c++', '#!/usr/bin/env bash\n')
    shell.source(MMCV_STATUS='1', WHEEL_STATUS='1')
    (shell.venv / 'Python.h').write_text('')
    error = shell.refused(MMCV_STATUS='1', WHEEL_STATUS='0')
    calls = shell.calls.read_text()
    assert '-m pip uninstall -y mmcv' in calls
    assert calls.count('-m pip wheel') == 1
    assert 'mmcv was built but its operators cannot be imported' in error


def test_a_built_wheel_is_kept_for_the_next_environment(shell, tmp_path):
    shell.put('python3.12', PYTHON.replace('/nonexistent', str(shell.venv)))
    shell.put('c++', '#!/usr/bin/env bash\n')
    shell.source(MMCV_STATUS='1', WHEEL_STATUS='1')
    (shell.venv / 'Python.h').write_text('')
    built = dict(MMCV_STATUS='1', WHEEL_STATUS='1', BUILT_STATUS='0')
    first = shell.source(**built)
    assert first.returncode == 0, first.stderr
    (wheel,) = (tmp_path / '.cache/slab_det/wheels').rglob('*.whl')
    assert wheel.parent.name == 'mmcv==2.1.0-torch2.11.0-cp312-x86_64'
    # Without CUDA's compiler the sources are merged, see tools/merge_sources.py.
    calls = shell.calls.read_text()
    assert calls.index('merge_sources.py') < calls.index('-m pip wheel')

    shutil.rmtree(shell.venv)
    (tmp_path / 'operators_work').unlink()
    again = shell.source(**built)
    assert again.returncode == 0, again.stderr
    assert 'that an earlier set-up has built' in again.stdout
    assert '-m pip wheel' not in shell.calls.read_text()


def test_each_stack_has_its_pins_its_pythons_and_its_folder(shell):
    assert 'SLAB_DET_STACK=other is not a stack: set it to openmmlab or onedl' in shell.refused(
        SLAB_DET_STACK='other'
    )
    shell.put('python3.12', PYTHON)
    shell.put('python3.13', PYTHON)
    done = shell.source(SLAB_DET_STACK='onedl', FAKE_VERSION='3.13.0')
    assert done.returncode == 0, done.stderr
    assert 'Using the stack onedl on Python 3.13.0' in done.stdout
    calls = shell.calls.read_text()
    assert 'requirements/onedl/torch.txt' in calls and 'requirements/openmmlab' not in calls
    error = shell.refused(SLAB_DET_STACK='onedl', FITS_STATUS='1', SLAB_DET_VENV='/nonexistent')
    assert 'no working Python 3.13, 3.12 or 3.11' in error and 'python3.13-venv' in error


@pytest.mark.parametrize(
    'stack, there', [('openmmlab', 'onedl_mmcv-2.3.6'), ('onedl', 'mmengine-0.10.7')]
)
def test_an_environment_of_the_other_stack_is_refused(shell, stack, there):
    shell.put('python3.12', PYTHON)
    assert shell.source().returncode == 0
    (shell.venv / f'lib/python3.12/site-packages/{there}.dist-info').mkdir(parents=True)
    error = shell.refused(SLAB_DET_STACK=stack)
    assert f'has packages of the other stack than {stack}' in error and 'SLAB_DET_VENV' in error


def test_what_is_fetched_is_said_before(shell):
    shell.put(
        'python3.12', PYTHON.replace('*get_path*)', '*"import torch") exit 1 ;;\n    *get_path*)')
    )
    lines = shell.source().stdout.splitlines()
    said = next(i for i, line in enumerate(lines) if '5 GB on the disk' in line)
    assert 'CPU-only' in lines[said] and 'Installing torch' in lines[said + 2]


def test_merged_sources_hold_every_source_once(tmp_path):
    folder = tmp_path / 'mmcv/ops/csrc/pytorch'
    (folder / 'cpu').mkdir(parents=True)
    alone = {
        'pybind.cpp': 'int pybind;',
        'macro.cpp': '# define max(a, b) a',
        'cpu/a.cpp': 'int x;',
    }
    merged = {f'{name}.cpp': f'int {name};' for name in 'abc'}
    for name, text in {**alone, **merged}.items():
        (folder / name).write_text(text)
    subprocess.run([sys.executable, ROOT / 'tools/merge_sources.py', tmp_path], check=True)
    compiled = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob('*.cpp')}
    assert {name: compiled.pop(name) for name in alone} == alone
    included = ''.join(compiled.values()).splitlines()
    assert len(compiled) == 2 and sorted(included) == [f'#include "{n}.inc"' for n in 'abc']
    for name, text in merged.items():
        assert (folder / name).with_suffix('.inc').read_text() == text
