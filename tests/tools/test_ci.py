""".ci/run in a checkout whose test runner only prints."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
#: Says what it was called with, and ends as pytest does; STATUS_STACK is its exit status.
RUNNER = """echo "$PWD" "$@" "[$PIP_FIND_LINKS]"
[[ -t 0 ]] && exit 9
status=STATUS_$SLAB_DET_STACK
if [[ ${!status:-0} == 7 ]]; then echo "error: no network"; exit 1; fi
if [[ $SLAB_DET_STACK == onedl ]]; then echo "====== 2 passed in 1.50s ======"
else echo "===== 1 failed, 3 passed, 1 skipped in 62.10s (0:01:02) ====="; fi
exit "${!status:-0}"
"""


@pytest.fixture
def ci(tmp_path):
    checkout = tmp_path / 'checkout'
    (checkout / '.ci').mkdir(parents=True)
    (checkout / 'tools').mkdir()
    shutil.copy2(ROOT / '.ci/run', checkout / '.ci/run')
    (checkout / 'tools/run_tests.sh').write_text(RUNNER)

    def run(*words, **environment):
        return subprocess.run(
            [checkout / '.ci/run', *words],
            cwd='/',
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, 'SLAB_DET_PYTHON_ONEDL': 'python', **environment},
        )

    run.checkout = checkout
    return run


@pytest.mark.parametrize('wheels', [True, False])
@pytest.mark.parametrize('before', ['', '/their/wheels'])
def test_wheels_beside_the_checkout_are_offered_to_pip(ci, tmp_path, wheels, before):
    expected = before
    if wheels:
        (tmp_path / 'shared/wheels').mkdir(parents=True)
        expected = f'{tmp_path}/shared/wheels {before}'.strip()
    done = ci('-m', 'not slow', PIP_FIND_LINKS=before)
    for stack in ('openmmlab', 'onedl'):
        record = f'--junitxml={ci.checkout}/work_dirs/ci/{stack}-given.xml'
        line = f'[{stack}] {ci.checkout} -rs {record} -m not slow [{expected}]'
        assert line in done.stdout.splitlines()


def test_every_line_says_its_stack_and_the_last_one_counts_both(ci):
    done = ci()
    assert done.returncode == 0, done.stdout
    *lines, last = done.stdout.splitlines()
    assert all(line.startswith(('[openmmlab] ', '[onedl] ')) for line in lines)
    assert last == (
        '[openmmlab] 1 failed, 3 passed, 1 skipped in 62.10s (0:01:02); '
        '[onedl] 2 passed in 1.50s; [onedl] 2 passed in 1.50s'
    )
    runs = [line for line in lines if '--junitxml' in line]
    assert [line.split('.xml')[1].split('[')[0].strip() for line in runs] == [
        '',
        '-m not slow',
        '-m slow tests/e2e tests/mm/resume',
    ]


@pytest.mark.parametrize('stack', ['openmmlab', 'onedl'])
@pytest.mark.parametrize('status', ['1', '7'])
def test_a_stack_that_fails_or_cannot_be_installed_fails_the_run(ci, stack, status):
    done = ci(**{f'STATUS_{stack}': status})
    assert done.returncode == 1
    last = done.stdout.splitlines()[-1]
    told = f'[{stack}] nothing was tested, error: no network' in last
    assert told == (status == '7')


def test_a_machine_without_python_3_13_is_told_and_fails(ci, tmp_path):
    for tool in ('bash', 'dirname', 'env', 'grep', 'mkdir', 'rm', 'sed', 'tail', 'tee'):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    done = ci(PATH=str(tmp_path), HOME=str(tmp_path), PYENV_ROOT='', SLAB_DET_PYTHON_ONEDL='')
    assert done.returncode == 1
    assert 'error: no Python 3.13 with the venv module' in done.stdout
    assert done.stdout.splitlines()[-1].endswith('[onedl] nothing was tested, install Python 3.13')


def test_the_workflow_runs_ci_on_every_supported_python():
    workflow = yaml.safe_load((ROOT / '.github/workflows/tests.yml').read_text(encoding='utf-8'))
    job = workflow['jobs']['tests']
    setup = (ROOT / 'setup.py').read_text(encoding='utf-8')
    supported = re.findall(r"'Programming Language :: Python :: (3\.\d+)'", setup)
    setup_python = next(step for step in job['steps'] if step.get('id') == 'python')
    # OpenMMLab's packages on each of their Pythons, the forks on theirs in every job.
    forks, own = setup_python['with']['python-version'].splitlines()
    assert own == '${{ matrix.python }}'
    assert [*job['strategy']['matrix']['python'], forks] == supported
    assert [step['run'] for step in job['steps'] if 'run' in step] == ['.ci/run']


def test_pre_commit_runs_the_checks_of_the_suite():
    (repository,) = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos']
    assert repository['repo'] == 'local'
    programs = [' '.join(hook['entry'].split()[:2]) for hook in repository['hooks']]
    assert programs == ['ruff check', 'ruff format', 'lint-imports']
