"""tools/plug_backbone.py: what it writes, says and refuses, and eight kinds of detectors."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from slab_det.mm.plug import load_detector, make_plan, train_one_step
from slab_det.mm.plug.backbones import build
from tests.mm.plug.tiny import BACKBONE, DETECTOR
from tests.scripts import caller, load_script

RETINANET = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'


@pytest.fixture
def plug(monkeypatch, capsys, tmp_path):
    """Run the tool in an empty folder with a small detector; return its exit code, output and
    errors."""
    tool = load_script('tools/plug_backbone.py')
    monkeypatch.chdir(tmp_path)
    Path('detector.py').write_text(DETECTOR)
    return caller(tool, monkeypatch, capsys)


def test_the_config_inherits_trains_and_is_reported(plug, tmp_path):
    code, out, err = plug('detector.py', '--backbone', 'slab-pvt-v2-b0', '--out', 'new/plugged.py')
    assert code == 0, err
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*.py')] == [
        'detector.py',
        'new/plugged.py',
    ]
    text = Path('new/plugged.py').read_text()
    assert "_base_ = '../detector.py'" in text and 'num_classes' not in text
    cfg = Config.fromfile('new/plugged.py')
    assert (cfg.model.backbone.type, cfg.model.neck.in_channels) == (
        'SLABPyramidVisionTransformerV2',
        [64, 160, 256],
    )
    assert [hook.type for hook in cfg.custom_hooks] == [
        'NumClassCheckHook',
        'PRepBNHook',
        'RandomStateHook',
    ]
    assert cfg.default_hooks.checkpoint.backend_args == dict(backend='whole')
    assert cfg.custom_imports.imports == ['slab_det'] and cfg.optim_wrapper.clip_grad.max_norm == 35
    rows = {line.split()[0] for line in out.splitlines() if line}
    assert {
        'model.backbone',
        'model.neck.in_channels',
        'optim_wrapper.optimizer',
        'custom_hooks',
    } <= rows
    assert 'frozen_stages=1, norm_eval=True of the ResNet are not taken over' in out
    assert (
        '- custom_hooks: RandomStateHook' in out
        and '- default_hooks.checkpoint.backend_args: ' in out
    )
    assert 'one training step with images of 256x320 pixels: loss ' in out
    assert out.splitlines()[-1] == 'wrote new/plugged.py'


def test_norm_attention_and_checkpoint_go_into_the_config(plug):
    net = build(
        dict(type='SLABVisionTransformer', arch='tiny', attn_types='S', norm_cfg=dict(type='LN'))
    )
    torch.save(
        dict(state_dict={f'backbone.{key}': value for key, value in net.state_dict().items()}),
        'detector.pth',
    )
    code, out, err = plug(
        'detector.py',
        '--backbone',
        'slab-deit-t',
        '--norm',
        'ln',
        '--attn',
        's',
        '--checkpoint',
        'detector.pth',
        '--no-check',
        '--out',
        'plugged.py',
    )
    assert code == 0 and 'not checked' in out, err
    cfg = Config.fromfile('plugged.py')
    assert cfg.model.backbone.to_dict() == dict(
        type='SLABVisionTransformer',
        arch='tiny',
        attn_types='S',
        norm_cfg=dict(type='LN'),
        init_cfg=dict(type='Pretrained', checkpoint='detector.pth', prefix='backbone.'),
    )
    assert cfg.model.neck.to_dict() == dict(
        type='SimpleFPN', in_channels=192, out_channels=16, scales=(2, 1, 0.5), num_outs=3
    )
    assert [hook.type for hook in cfg.custom_hooks] == ['NumClassCheckHook', 'RandomStateHook']


@pytest.mark.parametrize(
    'argv, message',
    [
        (('none.py', '--out', 'new.py'), 'config none.py is not a file'),
        (('text.txt', '--out', 'new.py'), 'config text.txt cannot be read'),
        (('headless.py', '--out', 'new.py'), 'config headless.py has no model.backbone'),
        (
            ('mmdet::retinanet/retinanet_r50_fpn_1x.py', '--out', 'new.py'),
            'the nearest is ' + RETINANET,
        ),
        (
            ('detector.py', '--backbone', 'slab-swin-tt', '--out', 'new.py'),
            'the nearest is slab-swin-t',
        ),
        (
            ('detector.py', '--attn', 'LX', '--out', 'new.py'),
            '--attn LX does not fit slab-pvt-v2-b0',
        ),
        (
            ('detector.py', '--checkpoint', 'none.pth', '--out', 'new.py'),
            '--checkpoint none.pth is not a file',
        ),
        (('detector.py', '--checkpoint', 'text.txt', '--out', 'new.py'), 'text.txt'),
        (
            ('detector.py', '--out', 'there.py'),
            '--out there.py exists: give another name, or --force to replace it',
        ),
        (
            ('detector.py', '--force', '--out', './detector.py'),
            '--out ./detector.py is the config itself',
        ),
        (('detector.py', '--out', 'text.txt/new.py'), 'is a file, give a folder'),
        (('hourglass.py', '--out', 'new.py'), 'are not a pyramid: it cannot take this backbone'),
        (
            ('stuck.py', '--out', 'new.py'),
            'the RetinaNet of stuck.py cannot be built with this backbone: AssertionError '
            '(not adapted: model.neck names no channels 64, 128, 256, 512 of the maps that it',
        ),
        (
            ('untrained.py', '--out', 'new.py'),
            'the RetinaNet of untrained.py cannot be trained with this backbone: ',
        ),
    ],
)
def test_bad_input_ends_in_one_sentence_and_writes_nothing(plug, tmp_path, argv, message):
    Path('text.txt').write_text('no config\n')
    Path('there.py').write_text('kept = 1\n')
    Path('headless.py').write_text("model = dict(type='RetinaNet')\n")
    Path('hourglass.py').write_text(
        "model = dict(type='CornerNet', backbone=dict(type='HourglassNet', downsample_times=1, "
        'num_stacks=2, '
        'stage_channels=[8, 8], stage_blocks=[1, 1], feat_channel=8))\n'
    )
    # A neck whose channels stand elsewhere.
    Path('stuck.py').write_text(
        DETECTOR.replace('in_channels=[64, 128, 256, 512]', 'in_channels=[64, 128, 256, 513]')
    )
    Path('untrained.py').write_text(DETECTOR.replace('in_channels=16', 'in_channels=17'))
    before = {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()}
    backbone = () if '--backbone' in argv else ('--backbone', 'slab-pvt-v2-b0')
    code, out, err = plug(*argv, *backbone)
    assert code == 1 and message in err
    assert err.startswith('error: ') and len(err.splitlines()) == 1 and not out
    assert {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()} == before


@pytest.mark.slow
@pytest.mark.parametrize(
    'config, backbone, reads',
    [
        (
            'libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py',
            {},
            ('neck.0.in_channels', [32, 64, 128, 256]),
        ),
        (
            RETINANET[7:],
            dict(
                type='SLABVisionTransformer',
                arch=dict(embed_dims=24, depth=1, num_heads=2),
                attn_types='L',
                window_sizes=None,
            ),
            ('neck.type', 'SimpleFPN'),
        ),
        (
            'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py',
            {},
            ('bbox_head.in_channels', (128, 256, 512, 256, 256, 128)),
        ),
        ('yolox/yolox_tiny_8xb8-300e_coco.py', {}, ('neck.in_channels', [64, 128, 256])),
        ('detr/detr_r50_8xb2-150e_coco.py', {}, ('neck.in_channels', [256])),
        (
            'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
            {},
            ('neck.in_channels', [64, 128, 256]),
        ),
        (
            'mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py',
            {},
            ('panoptic_head.in_channels', [32, 64, 128, 256]),
        ),
        (
            'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py',
            {},
            ('neck.in_channels', [32, 64, 128, 256]),
        ),
    ],
)
def test_eight_kinds_of_detectors_train(config, backbone, reads):
    config = f'mmdet::{config}'
    backbone = {key: value for key, value in {**BACKBONE, **backbone}.items() if value is not None}
    plan = make_plan(load_detector(config), backbone, config)
    assert not [note for note in plan.notes if note.left]
    found = plan.after['model']
    for key in reads[0].split('.'):
        found = found[int(key) if key.isdigit() else key]
    assert found == reads[1]
    trial = train_one_step(Config(plan.after), config, (128, 160))
    assert trial.losses['loss'] > 0 and not trial.idle
