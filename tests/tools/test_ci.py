""".ci/run in a checkout whose test runner only prints."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize('wheels', [True, False])
@pytest.mark.parametrize('before', ['', '/their/wheels'])
def test_wheels_beside_the_checkout_are_offered_to_pip(tmp_path, wheels, before):
    checkout = tmp_path / 'checkout'
    (checkout / '.ci').mkdir(parents=True)
    (checkout / 'tools').mkdir()
    shutil.copy2(ROOT / '.ci/run', checkout / '.ci/run')
    (checkout / 'tools/run_tests.sh').write_text('echo "$PWD" "$@" "[$PIP_FIND_LINKS]"; exit 3\n')
    expected = before
    if wheels:
        (tmp_path / 'shared/wheels').mkdir(parents=True)
        expected = f'{tmp_path}/shared/wheels {before}'.strip()
    done = subprocess.run(
        [checkout / '.ci/run', '-m', 'not slow'],
        cwd='/',
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, 'PIP_FIND_LINKS': before},
    )
    assert done.returncode == 3
    assert done.stdout == f'{checkout} -m not slow [{expected}]\n'


def test_the_workflow_runs_ci_on_every_supported_python():
    workflow = yaml.safe_load((ROOT / '.github/workflows/tests.yml').read_text(encoding='utf-8'))
    job = workflow['jobs']['tests']
    setup = (ROOT / 'setup.py').read_text(encoding='utf-8')
    supported = re.findall(r"'Programming Language :: Python :: (3\.\d+)'", setup)
    assert job['strategy']['matrix']['python'] == supported
    assert [step['run'] for step in job['steps'] if 'run' in step] == ['.ci/run']


def test_pre_commit_runs_the_checks_of_the_suite():
    (repository,) = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos']
    assert repository['repo'] == 'local'
    programs = [' '.join(hook['entry'].split()[:2]) for hook in repository['hooks']]
    assert programs == ['ruff check', 'ruff format', 'lint-imports']
