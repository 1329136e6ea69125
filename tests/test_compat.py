import importlib.util
import os
import pickle
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict
from importlib import metadata
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.logging.history_buffer import HistoryBuffer

from slab_det import compat

ROOT = Path(__file__).parents[1]


def pretend(monkeypatch, **versions):
    for name, version in versions.items():
        module = types.ModuleType(name)
        if version is not None:
            module.__version__ = version
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize(
    'mmengine, mmcv, mmdet',
    [
        ('0.10.0', '2.0.0rc4', '3.0.0'),
        ('0.10.7', '2.1.0', '3.3.0'),
        ('0.10.7', '2.1.0+cu130', '3.3.0'),
        ('0.10.12', '2.3.6', '3.4.0'),
        ('0.99', '2.3.0', '3.5.1'),
    ],
)
def test_fitting_versions_pass(monkeypatch, mmengine, mmcv, mmdet):
    pretend(monkeypatch, mmengine=mmengine, mmcv=mmcv, mmdet=mmdet)
    compat.check_versions()


@pytest.mark.parametrize(
    'mmengine, mmcv, mmdet, wrong',
    [
        ('0.9.1', '2.1.0', '3.3.0', 'mmengine 0.9.1'),
        ('1.0.0', '2.1.0', '3.3.0', 'mmengine 1.0.0'),
        ('0.10.7', '2.0.0rc3', '3.3.0', 'mmcv 2.0.0rc3'),
        ('0.10.7', '1.7.2', '3.3.0', 'mmcv 1.7.2'),
        ('0.10.7', '2.2.0', '3.3.0', 'mmcv 2.2.0'),
        ('0.10.7', '2.3.6', '3.3.0', 'mmcv 2.3.6'),
        ('0.10.7', '2.1.0', '3.4.0', 'mmcv 2.1.0'),
        ('0.10.7', '2.1.0', '2.28.2', 'mmdet 2.28.2'),
        ('0.10.7', '2.1.0', '4.0.0', 'mmdet 4.0.0'),
    ],
)
def test_a_wrong_version_is_named_in_one_sentence(monkeypatch, mmengine, mmcv, mmdet, wrong):
    pretend(monkeypatch, mmengine=mmengine, mmcv=mmcv, mmdet=mmdet)
    with pytest.raises(ImportError) as error:
        compat.check_versions()
    message = str(error.value)
    assert f'{wrong} is installed' in message and 'pip install' in message and '\n' not in message


@pytest.fixture
def distributions(monkeypatch):
    """Lets exactly the named distributions of stacks seem to be installed."""
    ours = {pin.split('==')[0] for stack in compat.STACKS.values() for pin in stack.values()}

    def install(**versions):
        named = {name.replace('_', '-'): found for name, found in versions.items()}

        def version(name):
            if name in named:
                return named[name]
            if name in ours - {'torch'}:
                raise PackageNotFoundError(name)
            return metadata.version(name)

        monkeypatch.setattr(compat, 'version', version)

    return install


OPENMMLAB = dict(mmengine='0.10.7', mmcv='2.1.0', mmdet='3.3.0')
ONEDL = dict(onedl_mmengine='0.10.12', onedl_mmcv='2.3.6', onedl_mmdetection='3.5.1')


def refused(check, *arguments):
    with pytest.raises(ImportError) as error:
        check(*arguments)
    message = str(error.value)
    assert '\n' not in message and "run 'pip" in message or "by 'pip" in message, message
    return message


@pytest.mark.parametrize('stack', list(compat.STACKS))
def test_the_pins_of_messages_are_those_of_the_requirements(stack):
    folder = ROOT / 'requirements' / stack
    lines = {line for path in folder.glob('*.txt') for line in path.read_text().splitlines()}
    for pin in compat.STACKS[stack].values():
        assert set(pin.split()) <= lines


@pytest.mark.parametrize(
    'installed, stack, pins',
    [
        (OPENMMLAB, 'openmmlab', ('mmengine==0.10.7', ' mmcv==2.1.0', 'mmdet==3.3.0')),
        (
            ONEDL,
            'onedl',
            ('onedl-mmengine==0.10.12', 'onedl-mmcv==2.3.6', 'onedl-mmdetection==3.5.1'),
        ),
    ],
)
@pytest.mark.parametrize('wrong', range(3))
def test_hints_fit_the_installed_stack(monkeypatch, distributions, installed, stack, pins, wrong):
    distributions(**installed)
    assert compat.installed_stack() == stack
    versions = dict(zip(compat.MM_PACKAGES, installed.values()))
    versions[compat.MM_PACKAGES[wrong]] = '9.9'
    pretend(monkeypatch, **versions)
    message = refused(compat.check_versions)
    named = [pin for pin in pins if pin in message]
    # A wrong mmdet may show as an mmcv that does not fit it.
    assert len(named) == 1


@pytest.mark.parametrize(
    'installed, kept',
    [
        (dict(mmengine='0.10.7', onedl_mmcv='2.3.6', onedl_mmdetection='3.5.1'), 'onedl'),
        (dict(mmengine='0.10.7', onedl_mmcv='2.3.6', mmdet='3.3.0'), 'openmmlab'),
        ({**OPENMMLAB, **ONEDL}, 'openmmlab'),
    ],
)
def test_half_of_each_stack_is_refused(distributions, installed, kept):
    distributions(**installed)
    message = refused(compat.require_detection)
    assert 'of two stacks' in message and f'keep one, {kept} by' in message
    removed = message.split('pip uninstall -y ')[1].split(' &&')[0].split()
    assert set(removed) == {name.replace('_', '-') for name in installed}
    assert all(compat.STACKS[kept][name] in message for name in compat.MM_PACKAGES)


def test_two_of_mim_are_warned_of(distributions):
    distributions(**ONEDL, openmim='0.3.9', onedl_mim='0.5.1')
    with pytest.warns(UserWarning) as caught:
        compat._check_one_stack()
    message = str(caught[0].message)
    assert 'openmim and onedl-mim both bring the module mim' in message
    assert 'pip uninstall -y openmim onedl-mim && pip install onedl-mim==0.5.1' in message


def hide(monkeypatch, *names):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name, *a: None if name in names else find(name, *a)
    )


def test_setuptools_without_pkg_resources_is_named(monkeypatch, distributions):
    hide(monkeypatch, 'pkg_resources')
    distributions(**ONEDL)
    compat._check_one_stack()  # the fork's mmengine does without
    distributions(**OPENMMLAB)
    assert 'pip install "setuptools<81"' in refused(compat._check_one_stack)


@pytest.mark.parametrize('stack', list(compat.STACKS))
def test_a_torch_that_mmcv_cannot_be_built_for_is_named(monkeypatch, distributions, stack):
    hide(monkeypatch, 'mmcv')
    distributions(**(OPENMMLAB if stack == 'openmmlab' else ONEDL), torch='2.14.0')
    message = refused(compat.require_detection, 'this tool')
    assert 'mmcv cannot be imported, and cannot be built for torch 2.14.0' in message
    pins = compat.STACKS[stack]
    assert message.index(pins['torch']) < message.index(pins['mmcv'])


@pytest.mark.parametrize(
    'extension, fault',
    [
        (None, 'has no operators'),
        ('raise ImportError("undefined symbol: _ZN5torch")', 'was built for another torch'),
    ],
)
def test_operators_that_are_absent_or_of_another_torch_are_named(
    monkeypatch, tmp_path, extension, fault
):
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv/__init__.py').write_text("__version__ = '2.1.0'\n")
    if extension is not None:
        (tmp_path / 'mmcv/_ext.py').write_text(extension + '\n')
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split('.')[0] == 'mmcv']:
        monkeypatch.delitem(sys.modules, name)
    message = refused(compat._check_operators)
    assert f'mmcv 2.1.0 {fault}' in message and '--no-build-isolation --no-cache-dir' in message


@pytest.mark.parametrize('python', [(3, 10, 13), (3, 14, 0)])
def test_another_python_is_refused(monkeypatch, python):
    monkeypatch.setattr(sys, 'version_info', python)
    with pytest.raises(ImportError) as error:
        compat.check_runtime()
    monkeypatch.undo()
    message = str(error.value)
    assert 'Python 3.11 to 3.13 but this is Python ' + '.'.join(map(str, python)) in message
    assert 'python3.11 -m venv' in message


@pytest.mark.parametrize('name, found', [('timm', '1.0.20'), ('torch', '2.5.1')])
def test_too_old_a_torch_or_timm_is_refused(distributions, name, found):
    distributions(**{name: found})
    assert f'but {name} {found} is installed' in refused(compat.check_runtime)


def test_the_ranges_of_torch_and_timm_are_those_of_the_requirements():
    lines = (ROOT / 'requirements/runtime.txt').read_text().splitlines()
    assert {name + wanted for name, wanted in compat.RUNTIME_RANGES.items()} <= set(lines)


def test_an_environment_that_does_not_fit_ends_a_script_in_one_sentence(tmp_path):
    for name in ('mmcv', 'onedl_mmcv'):
        folder = tmp_path / f'{name}-2.1.0.dist-info'
        folder.mkdir()
        (folder / 'METADATA').write_text(f'Name: {name}\nVersion: 2.1.0\n')
    done = subprocess.run(
        [sys.executable, '-c', 'import slab_det'],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, (ROOT, tmp_path)))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1


def test_a_module_that_only_has_the_name_is_refused(monkeypatch):
    pretend(monkeypatch, mmengine=None)
    with pytest.raises(ImportError, match='mmengine .* has no __version__'):
        compat.check_versions()


def run_without(packages, code):
    """Runs code in a process that cannot find the packages."""
    block = (
        'import sys\n'
        'class Block:\n'
        '    def find_spec(self, name, path=None, target=None):\n'
        f'        if name.split(".")[0] in {packages!r}:\n'
        '            raise ModuleNotFoundError(f"No module named {name!r}", name=name)\n'
        'import importlib.util as util\n'
        'find = util.find_spec\n'
        f'util.find_spec = lambda name, *a: None if name in {packages!r} else find(name, *a)\n'
        'sys.meta_path.insert(0, Block())\n'
    )
    return subprocess.run(
        [sys.executable, '-c', block + code], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout.strip()


def test_layers_and_models_import_without_the_mm_packages():
    out = run_without(
        ('mmengine', 'mmcv', 'mmdet'),
        (
            'import slab_det, slab_det.layers, slab_det.models\n'
            'print(sorted(name for name in sys.modules if name.startswith(("mme", "mmc", "mmd"))))'
        ),
    )
    assert out == '[]'


def test_detection_names_the_missing_package():
    out = run_without(
        ('mmdet',),
        (
            'import slab_det\n'
            'from slab_det.compat import require_detection\n'
            'try:\n'
            '    require_detection()\n'
            'except ImportError as error:\n'
            '    print(error)'
        ),
    )
    pin = compat.STACKS[compat.installed_stack()]['mmdet']
    assert 'mmdet cannot be imported' in out and f'pip install {pin}' in out and '\n' not in out


@pytest.fixture
def mmengine_checkpoint(tmp_path):
    """What mmengine puts into a checkpoint besides weights."""
    hub = MessageHub('test_compat')
    for value in (1.5, torch.tensor(2.5), np.float64(3.5)):
        hub.update_scalar('train/loss', value)
    hub.update_info('score', np.float32(0.25))
    hub.update_info('flag', np.bool_(True))
    for dtype in ('int8', 'uint32', 'int64', 'float16', 'float32', 'complex128'):
        hub.update_info(dtype, np.arange(3, dtype=dtype))
    path = tmp_path / 'epoch_1.pth'
    torch.save(dict(message_hub=hub.state_dict(), meta=OrderedDict(epoch=1)), path)
    return path


def check_content(content):
    hub = content['message_hub']
    history = hub['log_scalars']['train/loss']
    assert isinstance(history, HistoryBuffer)
    assert history.mean() == 2.5 and history.statistics('max') == 3.5
    assert hub['runtime_info']['score'] == np.float32(0.25)
    for dtype in ('int8', 'uint32', 'int64', 'float16', 'float32', 'complex128'):
        array = hub['runtime_info'][dtype]
        assert array.dtype == dtype and array.tolist() == [0, 1, 2]


def test_checkpoints_of_mmengine_load_safely(mmengine_checkpoint):
    # An earlier test may have left torch's safe_globals with one of them.
    compat.allow_mmengine_globals()
    check_content(torch.load(mmengine_checkpoint, weights_only=True))


def test_checkpoints_written_under_numpy_1_load_safely(mmengine_checkpoint, tmp_path):
    old = tmp_path / 'numpy1.pth'
    with zipfile.ZipFile(mmengine_checkpoint) as source, zipfile.ZipFile(old, 'w') as target:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename.endswith('data.pkl'):
                assert b'numpy._core.multiarray' in data
                data = data.replace(b'numpy._core.multiarray', b'numpy.core.multiarray')
            target.writestr(entry.filename, data)
    compat.allow_mmengine_globals()
    check_content(torch.load(old, weights_only=True))


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    'hostile',
    [
        Call(getattr, HistoryBuffer, '__init__'),
        Call(getattr, HistoryBuffer, 'register_statistics'),
        Call(getattr, np.ndarray, 'mean'),
        Call(eval, '1 + 1'),
        Call(exec, 'raise SystemExit'),
    ],
)
def test_nothing_else_is_allowed(tmp_path, hostile):
    path = tmp_path / 'hostile.pth'
    torch.save(dict(state_dict=hostile), path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
