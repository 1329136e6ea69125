"""A file that runs code where it is unpickled: wherever a checkpoint is named it does nothing, and
is refused in one sentence."""

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

from slab_det.cli import check_model, load_config
from slab_det.mm.datasets import make_shapes_dataset
from tests.scripts import caller, load_script

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / 'configs/mini/retinanet_slab-swin_mini_shapes.py')
BACKBONE = ['model.backbone.init_cfg.type=Pretrained', 'model.backbone.init_cfg.checkpoint=FILE']
#: mmengine loads it, as it does for mmdet's own backbones.
NECK = ['model.neck.init_cfg.type=Pretrained', 'model.neck.init_cfg.checkpoint=FILE']
PLACES = {
    'load_from': ['tools/train.py', CONFIG, '--cfg-options', 'load_from=FILE'],
    'resume': ['tools/train.py', CONFIG, '--resume', 'FILE'],
    'last_checkpoint': ['tools/train.py', CONFIG, '--resume'],
    'init_cfg': ['tools/train.py', CONFIG, '--cfg-options', *BACKBONE],
    'init_cfg-mmengine': ['tools/train.py', CONFIG, '--cfg-options', *NECK],
    'load_from-http': ['tools/train.py', CONFIG, '--cfg-options', 'load_from=ADDRESS'],
    'init_cfg-http': [
        'tools/train.py',
        CONFIG,
        '--cfg-options',
        *(word.replace('FILE', 'ADDRESS') for word in BACKBONE),
    ],
    'init_cfg-mmengine-http': [
        'tools/train.py',
        CONFIG,
        '--cfg-options',
        *(word.replace('FILE', 'ADDRESS') for word in NECK),
    ],
    'test': ['tools/test.py', CONFIG, 'FILE'],
    'calibrate': ['tools/calibrate_bn.py', CONFIG, 'FILE', '--out', 'out.pth'],
    'reparameterize': ['tools/reparameterize.py', CONFIG, 'FILE', '--out', 'deployed'],
    'export': ['tools/export_onnx.py', CONFIG, 'FILE', '--out', 'out.onnx'],
    'visualize': ['tools/visualize.py', CONFIG, 'FILE'],
    'image_demo': ['tools/image_demo.py', 'IMAGE', CONFIG, 'FILE'],
    'feature_maps': ['tools/analysis/feature_maps.py', 'IMAGE', CONFIG, 'FILE'],
    'feature_maps-init_cfg': [
        'tools/analysis/feature_maps.py',
        'IMAGE',
        CONFIG,
        '--cfg-options',
        *BACKBONE,
    ],
    'plot_schedule': ['tools/analysis/plot_schedule.py', CONFIG, '--cfg-options', 'load_from=FILE'],
    'plot_schedule-init_cfg': [
        'tools/analysis/plot_schedule.py',
        CONFIG,
        '--cfg-options',
        *BACKBONE,
    ],
    'convert': ['tools/convert_checkpoint.py', 'FILE', 'out.pth'],
    'plug': [
        'tools/plug_backbone.py',
        CONFIG,
        '--backbone',
        'slab-swin-t',
        '--checkpoint',
        'FILE',
        '--out',
        'new.py',
    ],
}


class Hostile:
    """Makes the file ``trace`` when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return exec, (f'open({str(self.trace)!r}, "w").close()',)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Built-in data, and a checkpoint of the config's model as mmengine would resume from it."""
    root = tmp_path_factory.mktemp('data')
    make_shapes_dataset(str(root / 'shapes'), 2, 1, (64, 80))
    model = check_model(load_config(CONFIG), CONFIG)
    content = dict(
        state_dict=model.state_dict(), optimizer={}, message_hub={}, meta=dict(epoch=1, iter=2)
    )
    return root / 'shapes', content


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        """Nothing among the errors of the tool."""


@pytest.fixture
def hostile(data, tmp_path, monkeypatch):
    """Work in a folder with the hostile file, which an address on this machine gives as well."""
    shapes, content = data
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.chdir(tmp_path)
    torch.save({**content, 'args': Hostile(tmp_path / 'trace')}, tmp_path / 'hostile.pth')
    work_dir = tmp_path / f'work_dirs/{Path(CONFIG).stem}'
    work_dir.mkdir(parents=True)
    (work_dir / 'last_checkpoint').write_text(str(tmp_path / 'hostile.pth'))
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=tmp_path))
    Thread(target=server.serve_forever, daemon=True).start()
    yield {
        'FILE': str(tmp_path / 'hostile.pth'),
        'ADDRESS': f'http://127.0.0.1:{server.server_port}/hostile.pth',
        'IMAGE': str(next(shapes.rglob('*.png'), None) or next(shapes.rglob('*.jpg'))),
    }
    server.shutdown()
    server.server_close()


def written(folder):
    """Checkpoints and ONNX files that are there, besides downloads."""
    files = {path for path in folder.rglob('*') if path.suffix in ('.pth', '.onnx')}
    return {path for path in files if not path.is_relative_to(folder / 'torch')}


@pytest.mark.parametrize('place', list(PLACES))
def test_a_hostile_file_does_nothing_and_gets_one_sentence(
    place, hostile, tmp_path, monkeypatch, capsys
):
    tool, *words = PLACES[place]
    for name, value in hostile.items():
        words = [word.replace(name, value) for word in words]
    before = written(tmp_path)
    code, _, errors = caller(load_script(tool), monkeypatch, capsys)(*words)
    assert not (tmp_path / 'trace').exists()
    assert code == 1
    (sentence,) = [line for line in errors.splitlines() if line.startswith('error: ')]
    assert 'hostile.pth' in sentence and 'exec' in sentence
    assert 'Traceback' not in errors and 'weights_only=False' not in errors
    assert written(tmp_path) == before


def test_the_file_is_hostile(hostile, tmp_path):
    torch.load(hostile['FILE'], weights_only=False)
    assert (tmp_path / 'trace').exists()
