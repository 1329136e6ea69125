import pickle
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.logging.history_buffer import HistoryBuffer

from slab_det import compat


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
    root = str(Path(__file__).parents[1])
    return subprocess.run(
        [sys.executable, '-c', block + code], capture_output=True, text=True, cwd=root, check=True
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
    assert (
        'mmdet cannot be imported' in out and 'pip install mmdet==3.3.0' in out and '\n' not in out
    )


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
