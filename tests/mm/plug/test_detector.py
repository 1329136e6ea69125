"""Reading the detector's config, and what its backbone returns."""

from pathlib import Path

import pytest

from slab_det.cli import InputError
from slab_det.mm.plug.detector import Maps, base_of, load_detector, measure


@pytest.mark.parametrize(
    'backbone, maps',
    [
        (
            dict(type='ResNet', depth=18, init_cfg=dict(type='Pretrained', checkpoint='no.pth')),
            Maps((64, 128, 256, 512), (4, 8, 16, 32)),
        ),
        (
            dict(
                type='ResNet',
                depth=18,
                out_indices=(3,),
                strides=(1, 2, 2, 1),
                dilations=(1, 1, 1, 2),
            ),
            Maps((512,), (16,)),
        ),
        (dict(type='MobileNetV2', out_indices=(4, 7)), Maps((96, 1280), (16, 32))),
    ],
)
def test_maps_are_measured(backbone, maps):
    assert measure(backbone, 'some.py') == maps


def test_a_backbone_that_cannot_be_built_is_named():
    with pytest.raises(
        InputError,
        match='the backbone Gone of some.py cannot be run to see which maps it returns: ',
    ):
        measure(dict(type='Gone'), 'some.py')


@pytest.mark.parametrize(
    'text, message',
    [
        ('x = 1', 'has no model: give a whole detection config'),
        ("model = dict(type='A')", 'has no model.backbone, there is nothing to replace'),
        (
            "model = dict(type='A', detector=dict(type='B', backbone=dict(type='C')))",
            'wraps a detector, whose backbone is model.detector.backbone: plug the config of that',
        ),
        (
            "model = dict(type='A', backbone=dict(type='C'), neck=dict(a_backbone=dict(type='D')))",
            'has a second backbone, model.neck.a_backbone',
        ),
        (
            'model = dict(type=dict, backbone=dict(type=list))',
            "is written in mmengine's pure Python style",
        ),
        ('model = = 1', 'cannot be read: '),
    ],
)
def test_configs_without_one_backbone_are_refused(tmp_path, text, message):
    file = tmp_path / 'some.py'
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        load_detector(str(file))


@pytest.mark.parametrize(
    'config, message',
    [
        ('no/such.py', 'config no/such.py is not a file'),
        (
            'mmdet::retinanet/retinanet_r50_fpn_1x_cocoa.py',
            'the nearest is mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
        ),
        ('nopackage::a.py', 'no package nopackage is installed'),
    ],
)
def test_names_that_are_no_file_are_refused(config, message):
    with pytest.raises(InputError, match=message):
        load_detector(config)


def test_the_new_config_finds_the_old_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert base_of('mmdet::a/b.py', 'c.py') == 'mmdet::a/b.py'
    assert base_of('a/b.py', 'a/c.py') == './b.py'
    assert base_of(str(Path('a/b.py').absolute()), 'c/d.py') == '../a/b.py'
