"""How tools end if something that a config names cannot be built, and if the code is at fault."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from slab_det.mm.datasets import make_shapes_dataset
from tests.scripts import caller, load_script

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / 'configs/mini/retinanet_slab-swin_mini_shapes.py')
NO_WORKERS = [
    f'{phase}_dataloader.{setting}'
    for phase in ('train', 'val', 'test')
    for setting in ('num_workers=0', 'persistent_workers=False')
]


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """A small data set, and a checkpoint of the config with random weights."""
    from mmdet.registry import MODELS
    from mmengine.config import Config

    folder = tmp_path_factory.mktemp('files')
    make_shapes_dataset(str(folder / 'shapes'), 2, 2, (64, 80))
    with MODELS.switch_scope_and_registry('mmdet') as registry:
        model = registry.build(Config.fromfile(CONFIG).model)
    torch.save(dict(state_dict=model.state_dict(), meta={}), folder / 'model.pth')
    return folder


@pytest.fixture
def fails(files, tmp_path, monkeypatch, capsys):
    """Run a tool on the config with settings; return the one sentence with which it ends."""
    monkeypatch.setenv('SHAPES_ROOT', str(files / 'shapes'))
    monkeypatch.chdir(tmp_path)

    def call(tool, *settings, options=()):
        arguments = [CONFIG, *options, '--cfg-options', *NO_WORKERS, *settings]
        if tool == 'image_demo':
            arguments.insert(0, files / 'shapes/val/000001.png')
        code, _, error = caller(load_script(f'tools/{tool}.py'), monkeypatch, capsys)(*arguments)
        error = error.splitlines()[-1]
        assert code == 1 and error.startswith('error: ') and 'Traceback' not in error
        return error

    return call


@pytest.mark.parametrize(
    'setting, words',
    [
        ('model.backbone.drop=1', 'the model of'),
        pytest.param('model.neck.num_outs=2', 'the model of', marks=pytest.mark.slow),
        ('custom_hooks.0.speed=1', "the custom_hooks' "),
        pytest.param(
            'default_hooks.logger.speed=1', 'the hook LoggerHook of', marks=pytest.mark.slow
        ),
        ('train_dataloader.dataset.speed=1', 'the dataset CocoDataset of'),
        ('train_dataloader.dataset.pipeline.1.speed=1', 'the transform LoadAnnotations of'),
        pytest.param(
            'train_dataloader.dataset.pipeline.1.type=Load',
            'the transform Load of',
            marks=pytest.mark.slow,
        ),
        pytest.param(
            'train_dataloader.sampler.speed=1',
            'the data sampler DefaultSampler of',
            marks=pytest.mark.slow,
        ),
        ('val_evaluator.speed=1', 'the metric CocoMetric of'),
        pytest.param(
            'optim_wrapper.optimizer.speed=1', 'the optim_wrapper of', marks=pytest.mark.slow
        ),
        pytest.param(
            'param_scheduler.0.speed=1', 'the parameter scheduler', marks=pytest.mark.slow
        ),
        pytest.param(
            'train_cfg.speed=1', 'the loop EpochBasedTrainLoop of', marks=pytest.mark.slow
        ),
    ],
)
def test_whatever_a_training_builds_is_the_users(fails, setting, words):
    error = fails('train', setting)
    assert words in error and 'cannot be built: ' in error
    assert 'speed' in error or 'speed' not in setting


@pytest.mark.parametrize(
    'setting, words',
    [
        ('model.backbone.drop=1', 'the model of'),
        pytest.param('custom_hooks.0.speed=1', 'the hook ', marks=pytest.mark.slow),
        ('test_dataloader.dataset.speed=1', 'the dataset CocoDataset of'),
        ('test_dataloader.dataset.pipeline.1.speed=1', 'the transform Resize of'),
        ('test_evaluator.speed=1', 'the metric CocoMetric of'),
    ],
)
def test_whatever_a_test_builds_is_the_users(fails, files, setting, words):
    error = fails('test', setting, options=[files / 'model.pth'])
    assert words in error and 'cannot be built: ' in error


@pytest.mark.parametrize(
    'tool, setting, options',
    [
        ('visualize', 'val_dataloader.dataset.pipeline.1.speed=1', ()),
        ('visualize', 'val_dataloader.dataset.speed=1', ()),
        ('image_demo', 'test_dataloader.dataset.speed=1', ()),
        ('image_demo', 'test_dataloader.dataset.pipeline.1.speed=1', ('--device', 'cpu')),
        ('calibrate_bn', 'train_dataloader.dataset.speed=1', ('--out', 'x.pth')),
        ('calibrate_bn', 'test_dataloader.dataset.pipeline.1.speed=1', ('--out', 'x.pth')),
        ('reparameterize', 'model.backbone.speed=1', ('--out', 'deployed')),
        ('export_onnx', 'model.backbone.speed=1', ('--out', 'x.onnx')),
    ],
)
def test_other_tools_name_what_cannot_be_built(fails, files, tmp_path, tool, setting, options):
    if tool == 'export_onnx':
        pytest.importorskip('onnxruntime', reason='pip install -r requirements/onnx.txt')
    assert 'speed' in fails(tool, setting, options=[files / 'model.pth', *options])
    assert not [path for path in tmp_path.rglob('*') if path.is_file()]


def test_the_pipeline_of_feature_maps(fails, files, monkeypatch, capsys):
    tool = load_script('tools/analysis/feature_maps.py')
    words = ['--cfg-options', 'test_dataloader.dataset.pipeline.1.speed=1']
    code, _, error = caller(tool, monkeypatch, capsys)(
        files / 'shapes/val/000001.png', CONFIG, *words
    )
    assert code == 1 and error.splitlines()[-1].startswith('error: the test pipeline cannot be')


SCRIPT = """
import sys
from argparse import Namespace
from slab_det.cli import run, write_text
from slab_det.errors import InputError, MissingPackageError
from slab_det.checkpoints import CheckpointError
from slab_det.deploy import UnfinishedRatioError
from slab_det.mm.datasets import DatasetError

def main(args):
    {body}

run(main, Namespace(traceback=False))
"""


def run_script(body):
    return subprocess.run(
        [sys.executable, '-c', SCRIPT.format(body=body)], capture_output=True, text=True
    )


@pytest.mark.parametrize(
    'error, words',
    [
        ("InputError('a\\nb')", 'a b'),
        ("CheckpointError('torn')", 'torn'),
        ("DatasetError('there')", 'there'),
        ("MissingPackageError('run pip')", 'run pip'),
        ('UnfinishedRatioError(0.5)', 'the PRepBN ratio is 0.5'),
    ],
)
def test_each_class_of_the_package_ends_a_tool_in_one_sentence(error, words):
    done = run_script(f'raise {error}')
    assert done.returncode == 1 and not done.stdout
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f'error: {words}') and 'Traceback' not in done.stderr


@pytest.mark.parametrize('error', ["ValueError('deep')", "ImportError('deep')", "KeyError('deep')"])
def test_a_fault_shows_its_traceback(error):
    done = run_script(f'raise {error}')
    assert done.returncode == 1 and 'Traceback' in done.stderr and 'deep' in done.stderr


def test_a_fault_inside_the_package_shows_its_traceback():
    """What tells the two apart is the class of the error, not the file that raised it."""
    done = run_script('from slab_det.layers.norm_names import canonical_norm; canonical_norm(3)')
    assert done.returncode == 1 and 'Traceback' in done.stderr


def test_a_full_disk_ends_in_one_sentence(tmp_path):
    """A limit on the size of files stands in for it."""
    limit = 'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); '
    path = tmp_path / 'a.txt'
    done = run_script(f"{limit}write_text({str(path)!r}, 'x' * 10**6, '--out')")
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert done.stderr.splitlines()[-1] == f'error: --out {path} cannot be written: File too large'
    assert not list(tmp_path.iterdir())


def test_ctrl_c_ends_in_one_sentence(tmp_path):
    body = "print('ready', flush=True); import time; time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, '-c', SCRIPT.format(body=body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == 'ready\n'
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130 and error.endswith('error: interrupted\n')
    assert 'Traceback' not in error
