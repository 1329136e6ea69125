"""Bad input to tools/train.py: one sentence, an exit code, and nothing left behind."""

import os
from pathlib import Path

import pytest
import torch

from slab_det.cli import check_model, load_config, run, warn_of_missing_hook
from slab_det.layers import set_ratio
from slab_det.mm.datasets import make_shapes_dataset
from slab_det.mm.hooks import PRepBNHook
from tests.scripts import load_script

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / 'configs/mini/mask-rcnn_slab-swin_mini_shapes.py')


@pytest.fixture(scope='module')
def tool():
    return load_script('tools/train.py')


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'shapes'
    make_shapes_dataset(str(root), 2, 1, (64, 80))
    return root


@pytest.fixture
def refused(tool, shapes, tmp_path, monkeypatch, capsys):
    """Runs the tool in an empty folder, returns its one sentence."""
    monkeypatch.setenv('SHAPES_ROOT', str(shapes))
    monkeypatch.chdir(tmp_path)

    def call(*words):
        before = sorted(tmp_path.rglob('*'))
        monkeypatch.setattr('sys.argv', ['train.py', *map(str, words)])
        with pytest.raises(SystemExit) as end:
            run(tool.main, tool.parse_args())
        assert end.value.code == 1
        assert sorted(tmp_path.rglob('*')) == before
        error = capsys.readouterr().err
        assert error.startswith('error: ') and error.count('\n') == 1
        return error

    return call


def test_the_config_must_be_there_and_a_config(refused, tmp_path):
    assert 'config gone.py is not a file' in refused('gone.py')
    Path('torn.py').write_text('model = dict(')
    assert 'config torn.py cannot be read: SyntaxError' in refused('torn.py')
    Path('orphan.py').write_text("_base_ = 'nothing.py'")
    assert 'config orphan.py cannot be read' in refused('orphan.py')
    Path('part.py').write_text('lr = 1')
    assert 'config part.py has no model' in refused('part.py')


def test_the_data_must_be_there(refused, shapes, tmp_path):
    option = 'train_dataloader.dataset.data_root'
    assert f'{option} nowhere is not a folder' in refused(
        CONFIG, '--cfg-options', f'{option}=nowhere'
    )
    Path('words.json').write_text('["not", "coco"]')
    option = 'val_dataloader.dataset.ann_file'
    words = refused(CONFIG, '--cfg-options', f'{option}={tmp_path}/words.json')
    assert f'{option} {tmp_path}/words.json is not COCO' in words


@pytest.mark.parametrize(
    'option, value',
    [
        ('model.backbone.arch', 'gigantic'),
        ('model.backbone.attn_types', 'LLS'),
        ('model.backbone.norm_cfg.type', 'NoSuchNorm'),
        ('model.backbone.type', 'NoSuchBackbone'),
    ],
)
def test_the_model_must_be_buildable(refused, option, value):
    error = refused(CONFIG, '--cfg-options', f'{option}={value}')
    assert f'the model of {CONFIG} cannot be built: ' in error and value in error


def test_the_hooks_must_be_buildable(refused):
    error = refused(CONFIG, '--cfg-options', 'custom_hooks.0.type=NoSuchHook')
    assert "custom_hooks' NoSuchHook" in error


def test_checkpoints_must_be_there_and_whole(refused, tmp_path):
    assert '--resume gone.pth is not a file' in refused(CONFIG, '--resume', 'gone.pth')
    assert 'load_from gone.pth is not a file' in refused(
        CONFIG, '--cfg-options', 'load_from=gone.pth'
    )
    torch.save(dict(state_dict=dict(a=torch.ones(1000))), 'whole.pth')
    Path('torn.pth').write_bytes(Path('whole.pth').read_bytes()[:1000])
    assert '--resume torn.pth is empty or truncated' in refused(CONFIG, '--resume', 'torn.pth')
    assert 'which has no optimizer' in refused(CONFIG, '--resume', 'whole.pth')
    words = [
        CONFIG,
        '--cfg-options',
        'model.backbone.init_cfg.type=Pretrained',
        'model.backbone.init_cfg.checkpoint=torn.pth',
    ]
    assert 'model.backbone.init_cfg.checkpoint torn.pth is empty or truncated' in refused(*words)


def test_resume_looks_into_the_work_dir(refused, tmp_path):
    Path('work').mkdir()
    Path('work/last_checkpoint').write_text('work/epoch_3.pth')
    error = refused(CONFIG, '--work-dir', 'work', '--resume')
    assert 'work/epoch_3.pth, which is not a file: name the checkpoint to go on from' in error


def test_the_work_dir_must_be_a_folder(refused):
    Path('file').write_text('')
    assert '--work-dir file/runs: ' in refused(CONFIG, '--work-dir', 'file/runs')


@pytest.mark.skipif(torch.cuda.is_available(), reason='mixed precision works on a GPU')
def test_mixed_precision_needs_a_gpu(refused):
    assert '--amp' in refused(CONFIG, '--amp')


def test_auto_scale_lr_needs_a_base(refused):
    words = [CONFIG, '--auto-scale-lr', '--cfg-options', 'auto_scale_lr=None']
    assert '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...)' in refused(*words)


def test_options_must_fit_the_config(refused):
    assert '--cfg-options custom_hooks.7.type=x' in refused(
        CONFIG, '--cfg-options', 'custom_hooks.7.type=x'
    )


def test_a_launcher_must_have_started_the_process(refused, monkeypatch):
    for name in ('RANK', 'WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    assert '--launcher pytorch needs' in refused(CONFIG, '--launcher', 'pytorch')


def test_arguments_reach_the_runner(tool, shapes, tmp_path, monkeypatch):
    """What each option asks for is in the config that the Runner gets."""
    from mmengine.config import Config
    from mmengine.runner import Runner

    monkeypatch.setenv('SHAPES_ROOT', str(shapes))
    monkeypatch.chdir(tmp_path)
    got = []

    class Stub:
        def train(self):
            pass

    monkeypatch.setattr(Runner, 'from_cfg', lambda cfg: got.append(cfg) or Stub())
    monkeypatch.setattr('slab_det.cli.launch.check_amp', lambda *args: None)
    monkeypatch.setattr(tool, 'check_amp', lambda *args: None)
    tool_args = [
        'train.py',
        CONFIG,
        '--amp',
        '--auto-scale-lr',
        '--resume',
        '--cfg-options',
        'auto_scale_lr.base_batch_size=4',
        'optim_wrapper.optimizer.lr=0.5',
    ]
    monkeypatch.setattr('sys.argv', tool_args)
    tool.main(tool.parse_args())
    (cfg,) = got
    assert isinstance(cfg, Config)
    assert cfg.work_dir == os.path.join('work_dirs', 'mask-rcnn_slab-swin_mini_shapes')
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper' and cfg.optim_wrapper.loss_scale == 'dynamic'
    assert cfg.auto_scale_lr == dict(base_batch_size=4, enable=True)
    assert cfg.resume is True and cfg.load_from is None and cfg.optim_wrapper.optimizer.lr == 0.5
    assert not (tmp_path / 'work_dirs').exists()


PRETRAINED = dict(type='Pretrained', checkpoint='slab_swin_tiny.pth')


@pytest.mark.parametrize(
    'hooks, backbone, ratio, words',
    [
        ([], {}, 1, ['the ratio of 14 PRepBN stays at 1, and']),
        ([dict(type='RandomStateHook')], {}, 0.25, ['the ratio of 14 PRepBN stays at 0.25, and']),
        (
            None,
            dict(init_cfg=PRETRAINED),
            1,
            ['stays at 1, unless that of the checkpoint in init_cfg is 0, and'],
        ),
        ([], dict(init_cfg=PRETRAINED, norm_eval=True), 1, []),
        ([], {}, 0, []),
        ([], dict(norm_cfg=dict(type='LN')), 1, []),
        ([dict(type='PRepBNHook')], {}, 1, []),
        ([dict(type='mmengine.PRepBNHook')], {}, 1, []),
        ([dict(type=PRepBNHook)], {}, 1, []),
    ],
)
def test_a_forgotten_hook_is_told_before_the_training(capsys, hooks, backbone, ratio, words):
    cfg = load_config(CONFIG)
    # The file is not there; that of a published checkpoint is loaded when training begins.
    cfg.model.backbone.update({key: value for key, value in backbone.items() if key != 'init_cfg'})
    model = check_model(cfg, CONFIG)
    set_ratio(model, ratio)
    cfg.model.backbone.update(backbone)
    cfg.custom_hooks = hooks
    warn_of_missing_hook(cfg, model)
    said = capsys.readouterr().err
    assert said.count('warning: custom_hooks has no PRepBNHook') == len(words)
    assert all(word in said for word in words)


def test_a_hook_among_the_default_hooks_is_not_forgotten(capsys):
    cfg = load_config(CONFIG)
    cfg.custom_hooks = []
    cfg.default_hooks = dict(timer=None, ratio=dict(type='PRepBNHook'))
    warn_of_missing_hook(cfg, check_model(cfg, CONFIG))
    assert capsys.readouterr().err == ''
