import contextlib
import functools
import http.server
import threading

import pytest
import timm
import torch
from mmengine.fileio import BaseStorageBackend, register_backend

from slab_det.checkpoints import CheckpointError, detect_family
from slab_det.mm.backbones.sources import open_checkpoint


@pytest.fixture
def server(tmp_path):
    """A web server on this machine, and the addresses that it was asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, form, *args):
            asked.append(self.path)

    folder = tmp_path / 'served'
    folder.mkdir()
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield folder, f'http://127.0.0.1:{web.server_port}', asked
        web.shutdown()
        thread.join()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    return tmp_path / 'home' / 'hub' / 'checkpoints'


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f'open({str(self.path)!r}, "w")',)


def test_a_path_is_read(tmp_path):
    torch.save({'a': torch.ones(2)}, tmp_path / 'ckpt.pth')
    assert torch.equal(open_checkpoint(str(tmp_path / 'ckpt.pth'))['a'], torch.ones(2))
    with pytest.raises(FileNotFoundError, match='no.pth.*does not exist'):
        open_checkpoint(str(tmp_path / 'no.pth'))


def test_web_addresses_are_downloaded_once_and_read_safely(server, hub, tmp_path):
    folder, address, asked = server
    torch.save({'a': torch.ones(2), 'args': Hostile(tmp_path / 'trace')}, folder / 'ckpt.pth')
    for _ in range(2):
        assert torch.equal(open_checkpoint(f'{address}/ckpt.pth?raw=true')['a'], torch.ones(2))
    assert asked == ['/ckpt.pth?raw=true']
    assert [path.name for path in hub.iterdir()] == ['ckpt.pth']
    assert not (tmp_path / 'trace').exists()


def test_an_address_without_a_file_is_named_and_leaves_nothing(server, hub):
    with pytest.raises(
        CheckpointError, match='/no.pth cannot be downloaded: .*404.*check the address'
    ):
        open_checkpoint(f'{server[1]}/no.pth')
    assert list(hub.iterdir()) == []


class Vault(BaseStorageBackend):
    """A file backend of mmengine whose files are one."""

    file = None

    def get(self, filepath):
        raise NotImplementedError

    def get_text(self, filepath):
        raise NotImplementedError

    @contextlib.contextmanager
    def get_local_path(self, filepath):
        assert filepath == 'vault://some/ckpt.pth'
        yield self.file


def test_files_of_mmengines_other_backends_are_read(tmp_path):
    Vault.file = tmp_path / 'ckpt.pth'
    torch.save({'a': torch.ones(2)}, Vault.file)
    register_backend('vault', Vault, prefixes='vault', force=True)
    assert torch.equal(open_checkpoint('vault://some/ckpt.pth')['a'], torch.ones(2))


def test_unknown_schemes_are_named():
    with pytest.raises(
        CheckpointError, match='modelhub://x has a scheme that is not known; give a path'
    ):
        open_checkpoint('modelhub://x')


def test_timms_pretrained_models_are_sources(monkeypatch):
    create = timm.create_model
    asked = []

    def offline(name, pretrained):
        asked.append((name, pretrained))
        return create(name, pretrained=False, depths=(1, 1, 1, 1))

    monkeypatch.setattr(timm, 'create_model', offline)
    weights = open_checkpoint('timm://pvt_v2_b0.in1k')
    assert asked == [('pvt_v2_b0.in1k', True)]
    assert detect_family(weights).name == 'pvt_v2'


def test_unknown_models_of_timm_are_named():
    with pytest.raises(
        CheckpointError, match='timm://no_such_model cannot be had: Unknown model.*list_models'
    ):
        open_checkpoint('timm://no_such_model')
