import os
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.fileio import LocalBackend, get_file_backend

ROOT = Path(__file__).parents[2]


@pytest.fixture
def backend():
    """What the checkpoints of our configs are written with."""
    cfg = Config.fromfile(ROOT / 'configs/mini/retinanet_slab-swin_mini_shapes.py')
    return get_file_backend(
        'checkpoint.pth', backend_args=cfg.default_hooks.checkpoint.backend_args
    )


def test_a_file_is_written_into_a_new_folder_and_nothing_beside_it(backend, tmp_path):
    backend.put(b'new', str(tmp_path / 'work' / 'epoch_1.pth'))
    assert backend.get(str(tmp_path / 'work' / 'epoch_1.pth')) == b'new'
    assert os.listdir(tmp_path / 'work') == ['epoch_1.pth']


def test_a_cut_leaves_the_file_as_it_was(backend, tmp_path, monkeypatch):
    path = tmp_path / 'epoch_1.pth'
    backend.put(b'old', path)

    def cut(self, obj, filepath):
        Path(filepath).write_bytes(obj[:1])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LocalBackend, 'put', cut)
        with pytest.raises(KeyboardInterrupt):
            backend.put(b'new', path)
        with pytest.raises(KeyboardInterrupt):
            backend.put(b'new', tmp_path / 'epoch_2.pth')
    assert path.read_bytes() == b'old' and not (tmp_path / 'epoch_2.pth').exists()
    backend.put(b'new', path)
    assert path.read_bytes() == b'new'
