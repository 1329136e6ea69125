import contextlib
import functools
import http.server
import os
import threading

import pytest
import timm
import torch
from mmengine.fileio import BaseStorageBackend, register_backend
from mmengine.runner.checkpoint import _load_checkpoint as load_checkpoint
from safetensors.torch import save_file

from slab_det.checkpoints import CheckpointError, detect_family
from slab_det.mm.backbones import sources
from slab_det.mm.backbones.sources import open_checkpoint
from tests.processes import on_two_processes


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
    torch.save({'a': torch.ones(2)}, folder / 'ckpt.pth')
    for _ in range(2):
        assert torch.equal(open_checkpoint(f'{address}/ckpt.pth?raw=true')['a'], torch.ones(2))
    assert asked == ['/ckpt.pth?raw=true']
    (kept,) = hub.iterdir()
    assert kept.name.endswith('-ckpt.pth')

    torch.save({'a': torch.ones(2), 'args': Hostile(tmp_path / 'trace')}, folder / 'bad.pth')
    with pytest.raises(CheckpointError, match='cannot be read without running code from it'):
        open_checkpoint(f'{address}/bad.pth')
    assert not (tmp_path / 'trace').exists()


def test_an_address_without_a_file_is_named_and_leaves_nothing(server, hub):
    with pytest.raises(
        CheckpointError, match='/no.pth cannot be downloaded: .*404.*check the address'
    ):
        open_checkpoint(f'{server[1]}/no.pth')
    assert list(hub.iterdir()) == []


def test_addresses_that_end_in_the_same_name_are_two_files(server, hub):
    folder, address, _ = server
    for name in ('swin', 'pvt'):
        (folder / name).mkdir()
        torch.save({name: torch.ones(2)}, folder / name / 'last.pth')
    for name in ('swin', 'pvt', 'swin'):
        assert open_checkpoint(f'{address}/{name}/last.pth').keys() == {name}
    assert len(list(hub.iterdir())) == 2


def download(rank, homes, url):
    """Download on one of two machines, whose first and only process this is."""
    os.environ.update(LOCAL_RANK='0', TORCH_HOME=homes[rank])
    try:
        return sources._download(url)
    except CheckpointError as error:
        return f'refused: {error}'


def download_together(rank, homes, url):
    """Download on one machine of two processes."""
    os.environ.update(TORCH_HOME=homes[0])
    try:
        return sources._download(url)
    except CheckpointError as error:
        return f'refused: {error}'


def test_every_machine_downloads_and_no_process_is_left_waiting(tmp_path):
    torch.save({'a': torch.ones(2)}, tmp_path / 'ckpt.pth')
    homes = [str(tmp_path / f'machine{i}') for i in range(2)]
    paths = on_two_processes(download, homes, (tmp_path / 'ckpt.pth').as_uri())
    assert [path.startswith(home) for path, home in zip(paths, homes)] == [True, True]
    assert all(open_checkpoint(path)['a'].tolist() == [1, 1] for path in paths)
    said = on_two_processes(download_together, homes, (tmp_path / 'none.pth').as_uri())
    assert said[0] == said[1] and 'none.pth cannot be downloaded' in said[0]


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
        CheckpointError, match='timm://no_such_model cannot be loaded: Unknown model.*list_models'
    ):
        open_checkpoint('timm://no_such_model')


def test_weights_with_code_of_timms_own_are_refused():
    custom = next(
        name for name in timm.list_pretrained('vit_*') if timm.get_pretrained_cfg(name).custom_load
    )
    with pytest.raises(CheckpointError, match='with its own code; save the state_dict'):
        open_checkpoint(f'timm://{custom}')


@pytest.mark.parametrize('name', ['hf-hub:owner/name', 'hf_hub:owner/name', 'hf-hub://owner/name'])
def test_weights_on_the_hub_are_read_safely(monkeypatch, name):
    asked = []

    def offline(model, **options):
        asked.append((model, options))
        return {'a': torch.ones(2)}

    monkeypatch.setattr(timm.models, 'load_state_dict_from_hf', offline)
    assert open_checkpoint(name)['a'].tolist() == [1, 1]
    assert asked == [('owner/name', dict(weights_only=True))]


@pytest.mark.parametrize('source', ['hf-hub:owner/name', 'timm://pvt_v2_b0.in1k'])
def test_a_hub_that_is_not_reached_is_said_in_one_sentence(monkeypatch, source):
    def away(*args, **kwargs):
        raise RuntimeError('Cannot reach the hub.\nSee the documentation.')

    monkeypatch.setattr(timm.models, 'load_state_dict_from_hf', away)
    monkeypatch.setattr(timm, 'create_model', away)
    with pytest.raises(
        CheckpointError, match=f'{source} cannot be loaded: Cannot reach the hub;'
    ) as error:
        open_checkpoint(source)
    assert '\n' not in str(error.value)


def test_mmengines_runner_reads_safetensors(tmp_path):
    save_file({'a': torch.ones(2)}, tmp_path / 'model.safetensors')
    assert load_checkpoint(str(tmp_path / 'model.safetensors'))['a'].tolist() == [1, 1]
