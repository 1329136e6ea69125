"""MIM finds and runs the tools, from another folder, however the project was installed."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from slab_det.compat import STACKS, installed_stack
from slab_det.mm.datasets import make_shapes_dataset
from slab_det.version import __version__

ROOT = Path(__file__).parents[2]
CONFIG = 'mask-rcnn_slab-swin_mini_shapes.py'
PARTS = (
    'slab_det',
    'tools',
    'configs',
    'requirements',
    'setup.py',
    'MANIFEST.in',
    'README.md',
    'LICENSE',
    'CHANGELOG.md',
    'model-index.yml',
    'pytest.ini',
)

pytestmark = pytest.mark.slow


def call(*words, cwd, **environment):
    variables = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    done = subprocess.run(
        [*map(str, words)],
        cwd=cwd,
        env={**variables, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f'{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}'
    return done.stdout


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A copy of the project, so that building writes nothing into this one."""
    copy = tmp_path_factory.mktemp('source') / 'project'
    copy.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(
                ROOT / part, copy / part, ignore=shutil.ignore_patterns('__pycache__', '.mim')
            )
        else:
            shutil.copy2(ROOT / part, copy / part)
    return copy


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp('wheel')
    call(
        sys.executable,
        '-m',
        'pip',
        'wheel',
        '--no-build-isolation',
        '--no-deps',
        '--no-index',
        '-w',
        folder,
        source,
        cwd=folder,
    )
    return next(folder.glob('slab_det-*.whl'))


@pytest.fixture
def install(source, tmp_path):
    """Installs into a fresh environment that sees the packages of ours; returns its Python."""

    def make(*words):
        call(sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'venv', cwd=tmp_path)
        python = tmp_path / 'venv/bin/python'
        own = call(
            python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))', cwd=tmp_path
        ).strip()
        # Not only the folder's path: setuptools brings distutils to Python 3.12 by a .pth file
        # inside.
        (Path(own) / 'parent.pth').write_text(
            f'import site; site.addsitedir({sysconfig.get_path("purelib")!r})\n'
        )
        call(
            python,
            '-m',
            'pip',
            'install',
            '--no-build-isolation',
            '--no-deps',
            '--no-index',
            *words,
            cwd=tmp_path,
        )
        return python

    return make


@pytest.fixture
def elsewhere(tmp_path):
    folder = tmp_path / 'elsewhere'
    folder.mkdir()
    make_shapes_dataset(str(folder / 'data/shapes'), 4, 2, (96, 128))
    return folder


@pytest.mark.parametrize('editable', [False, True], ids=['plain', 'editable'])
def test_train_and_test(source, install, elsewhere, editable):
    pytest.importorskip('mim', reason='mim is not installed, tools/run_tests.sh installs it')
    python = install(*(['-e', source] if editable else [source]))

    where = call(python, '-c', 'import slab_det; print(slab_det.__file__)', cwd=elsewhere).strip()
    assert Path(where).is_relative_to(source) == editable

    # The forks' mim finds a name twice in an editable install, in the project and through our link.
    by_path = editable and installed_stack() == 'onedl'

    def mim(command, package, *words):
        return call(
            python,
            '-c',
            'from mim.cli import cli; cli()',
            command,
            package,
            next((source / 'configs').rglob(CONFIG)) if by_path else CONFIG,
            '--gpus',
            '0',
            *words,
            cwd=elsewhere,
            OMP_NUM_THREADS='1',
        )

    brief = ['--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=9']
    mim('train', 'slab_det', '--work-dir', 'ours', *brief)
    assert (elsewhere / 'ours/epoch_1.pth').exists()
    out = mim('test', 'slab_det', '--checkpoint', 'ours/epoch_1.pth', '--work-dir', 'tested')
    assert 'coco/bbox_mAP' in out and 'Testing finished successfully' in out

    # mmdet's own tools know nothing of our checks, and find our config by its path only.
    config = next((source if editable else Path(where).parent / '.mim').rglob(CONFIG))
    call(
        python,
        '-c',
        'from mim.cli import cli; cli()',
        'train',
        STACKS[installed_stack()]['mmdet'].split('==')[0],
        config,
        '--gpus',
        '0',
        '--work-dir',
        'theirs',
        '--resume',
        *brief,
        cwd=elsewhere,
        OMP_NUM_THREADS='1',
    )
    assert (elsewhere / 'theirs/epoch_1.pth').exists()


def test_an_editable_install_shows_new_configs(source, install, elsewhere):
    python = install('-e', source)
    new = source / 'configs/mini/new_config.py'
    new.write_text('answer = 42\n')
    try:
        # Both MIM and mmengine look for configs below this path.
        ask = 'from mmengine.utils import get_installed_path; print(get_installed_path("slab_det"))'
        package = call(python, '-c', ask, cwd=elsewhere).strip().splitlines()[-1]
        assert (Path(package) / '.mim/configs/mini/new_config.py').read_text() == 'answer = 42\n'
    finally:
        new.unlink()


def test_the_wheel_holds_what_mim_needs(wheel):
    assert wheel.name == f'slab_det-{__version__}-py3-none-any.whl'
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {'slab_det/.mim/model-index.yml'} | {
        f'slab_det/.mim/{path.relative_to(ROOT)}'
        for folder in ('tools', 'configs')
        for path in (ROOT / folder).rglob('*')
        if path.is_file()
        and not {'__pycache__', 'docs'} & set(path.relative_to(ROOT).parts)
        and path.name not in ('check_docs.py', 'render_model_zoo.py')
    }
    expected |= {
        str(path.relative_to(ROOT))
        for path in (ROOT / 'slab_det').rglob('*.py')
        if '.mim' not in path.parts
    }
    assert expected <= names
    assert not [
        name
        for name in names
        if name.startswith(('tests', 'tools', 'configs')) or '__pycache__' in name
    ]
    # The rig that checks the documentation serves the checkout only.
    rig = ('.mim/tools/docs/', '.mim/tools/check_docs.py', '.mim/tools/render_')
    assert not [name for name in names if any(part in name for part in rig)]


def test_a_wheel_built_from_the_sdist_is_the_same(source, wheel, tmp_path):
    copy = shutil.copytree(source, tmp_path / 'project')
    call(sys.executable, 'setup.py', '--quiet', 'sdist', '--dist-dir', tmp_path, cwd=copy)
    sdist = next(tmp_path.glob('*.tar.gz'))
    call(
        sys.executable,
        '-m',
        'pip',
        'wheel',
        '--no-build-isolation',
        '--no-deps',
        '--no-index',
        '-w',
        tmp_path,
        sdist,
        cwd=tmp_path,
    )
    from_sdist = zipfile.ZipFile(tmp_path / wheel.name)
    assert set(from_sdist.namelist()) == set(zipfile.ZipFile(wheel).namelist())


def test_forks_are_not_shut_out(wheel):
    metadata = zipfile.ZipFile(wheel).read(f'slab_det-{__version__}.dist-info/METADATA').decode()
    needs = [
        line.split(': ')[1] for line in metadata.splitlines() if line.startswith('Requires-Dist')
    ]
    assert any(need.startswith('torch') for need in needs)
    assert not [need for need in needs if need.startswith('mm')]
