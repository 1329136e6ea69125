"""Levels and channels of necks and heads, on configs alone."""

import pytest

from slab_det.cli import InputError
from slab_det.mm.plug.detector import Maps
from slab_det.mm.plug.levels import adapt_levels

R50 = Maps((256, 512, 1024, 2048), (4, 8, 16, 32))
SWIN = Maps((96, 192, 384, 768), (4, 8, 16, 32))
DEIT = Maps((192,), (16,))


def adapt(model, old, new):
    notes = []
    backbone = adapt_levels(
        model, old, new, 'some.py', lambda path, text, left=False: notes.append((path, left))
    )
    return backbone, notes


def last(number):
    return Maps(R50.channels[-number:], R50.strides[-number:])


def test_a_neck_that_reads_every_map():
    model = dict(
        type='FasterRCNN',
        neck=dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256),
        rpn_head=dict(in_channels=256),
        roi_head=dict(bbox_head=dict(in_channels=256)),
    )
    assert adapt(model, R50, SWIN) == ({}, [])
    assert model['neck'] == dict(type='FPN', in_channels=[96, 192, 384, 768], out_channels=256)
    # 256 is the channels of the first map by chance.
    assert model['rpn_head']['in_channels'] == model['roi_head']['bbox_head']['in_channels'] == 256


def test_maps_that_the_neck_leaves_out_are_not_computed():
    neck = dict(
        type='FPN', in_channels=[256, 512, 1024, 2048], start_level=1, end_level=3, num_outs=5
    )
    model = dict(type='RetinaNet', neck=[neck, dict(type='BFP', in_channels=256)])
    backbone, notes = adapt(model, R50, SWIN)
    assert backbone == {'out_indices': (1, 2, 3)} and notes == [('model.neck.0.start_level', False)]
    assert model['neck'] == [
        dict(type='FPN', in_channels=[192, 384, 768], start_level=0, end_level=2, num_outs=5),
        dict(type='BFP', in_channels=256),
    ]


def test_three_maps_and_one():
    model = dict(
        type='DINO', neck=dict(type='ChannelMapper', in_channels=[512, 1024, 2048], num_outs=4)
    )
    assert adapt(model, last(3), SWIN)[0] == {'out_indices': (1, 2, 3)}
    assert model['neck']['in_channels'] == [192, 384, 768]
    model = dict(type='DETR', neck=dict(type='ChannelMapper', in_channels=[2048]))
    assert adapt(model, last(1), SWIN)[0] == {'out_indices': (3,)}
    assert model['neck']['in_channels'] == [768]


def test_a_number_for_the_one_map_or_the_last():
    model = dict(
        type='YOLOF',
        neck=dict(type='DilatedEncoder', in_channels=2048, out_channels=512),
        bbox_head=dict(in_channels=512),
    )
    adapt(model, last(1), SWIN)
    assert model['neck'] == dict(type='DilatedEncoder', in_channels=768, out_channels=512)
    model = dict(type='CenterNet', neck=dict(type='CTResNetNeck', in_channels=512))
    assert adapt(model, Maps((64, 128, 256, 512), R50.strides), SWIN) == ({}, [])
    assert model['neck']['in_channels'] == 768


def test_heads_that_read_the_backbone_themselves():
    model = dict(
        type='Mask2Former',
        train_cfg=dict(in_channels=[256, 512, 1024, 2048]),
        panoptic_head=dict(
            in_channels=[256, 512, 1024, 2048],
            strides=[4, 8, 16, 32],
            feat_channels=256,
            out_channels=256,
            pixel_decoder=dict(encoder=dict(layer_cfg=dict(in_channels=256))),
        ),
    )
    assert adapt(model, R50, SWIN) == ({}, [])
    head = model['panoptic_head']
    assert head['in_channels'] == [96, 192, 384, 768] and head['out_channels'] == 256
    assert head['pixel_decoder']['encoder']['layer_cfg']['in_channels'] == 256
    assert model['train_cfg']['in_channels'] == [256, 512, 1024, 2048]
    # A dilated last stage: the map of stride 16.
    model = dict(
        type='FasterRCNN',
        rpn_head=dict(in_channels=2048, feat_channels=2048),
        roi_head=dict(bbox_roi_extractor=dict(out_channels=2048), bbox_head=dict(in_channels=2048)),
    )
    assert adapt(model, Maps((2048,), (16,)), SWIN)[0] == {'out_indices': (2,)}
    assert model['rpn_head'] == dict(in_channels=384, feat_channels=2048)
    assert model['roi_head'] == dict(
        bbox_roi_extractor=dict(out_channels=384), bbox_head=dict(in_channels=384)
    )


def test_heads_behind_a_neck_that_passes_the_maps_on():
    model = dict(
        type='SingleStageDetector',
        neck=dict(type='SSDNeck', in_channels=(512, 1024), out_channels=(512, 1024, 512, 256)),
        bbox_head=dict(in_channels=(512, 1024, 512, 256)),
    )
    adapt(model, Maps((512, 1024), (8, 16)), SWIN)
    assert model['neck'] == dict(
        type='SSDNeck', in_channels=(192, 384), out_channels=(192, 384, 512, 256)
    )
    assert model['bbox_head']['in_channels'] == (192, 384, 512, 256)


def test_maps_in_reversed_order():
    model = dict(
        type='YOLOV3',
        neck=dict(in_channels=[1024, 512, 256], out_channels=[512, 256, 128]),
        bbox_head=dict(in_channels=[512, 256, 128], out_channels=[1024, 512, 256]),
    )
    adapt(model, Maps((256, 512, 1024), (8, 16, 32)), SWIN)
    assert model['neck'] == dict(in_channels=[768, 384, 192], out_channels=[512, 256, 128])
    assert model['bbox_head'] == dict(in_channels=[512, 256, 128], out_channels=[1024, 512, 256])


def test_one_scale_becomes_a_pyramid_in_place_of_an_fpn():
    model = dict(
        type='RetinaNet',
        neck=[
            dict(
                type='FPN',
                in_channels=[256, 512, 1024, 2048],
                out_channels=64,
                start_level=1,
                num_outs=5,
            ),
            dict(type='BFP', in_channels=64),
        ],
    )
    assert adapt(model, R50, DEIT)[0] == {}
    assert model['neck'] == [
        dict(type='SimpleFPN', in_channels=192, out_channels=64, scales=(2, 1, 0.5), num_outs=5),
        dict(type='BFP', in_channels=64),
    ]


def test_one_scale_becomes_a_pyramid_before_another_neck_and_before_heads():
    pyramid = dict(type='SimpleFPN', in_channels=192, out_channels=256)
    model = dict(type='DINO', neck=dict(type='ChannelMapper', in_channels=[512, 1024, 2048]))
    adapt(model, last(3), DEIT)
    assert model['neck'] == [
        dict(pyramid, scales=(2, 1, 0.5), num_outs=3),
        dict(type='ChannelMapper', in_channels=[256, 256, 256]),
    ]
    model = dict(type='Mask2Former', panoptic_head=dict(in_channels=[256, 512, 1024, 2048]))
    adapt(model, R50, DEIT)
    assert model['neck'] == dict(pyramid, scales=(4, 2, 1, 0.5), num_outs=4)
    assert model['panoptic_head']['in_channels'] == [256] * 4


def test_one_scale_is_enough_where_its_stride_is_read():
    model = dict(type='FasterRCNN', rpn_head=dict(in_channels=2048))
    assert adapt(model, Maps((2048,), (16,)), DEIT)[0] == {}
    assert model == dict(type='FasterRCNN', rpn_head=dict(in_channels=192))


@pytest.mark.parametrize(
    'old, new, message',
    [
        (
            Maps((256, 256), (4, 4)),
            SWIN,
            'the Some of some.py reads maps of strides 4, 4, which are not a pyramid',
        ),
        (
            Maps((256, 512, 1024, 2048), (8, 16, 32, 64)),
            SWIN,
            'reads a map of stride 64, but the backbone has maps of strides 4, 8, 16, 32',
        ),
        (Maps((256, 512), (32, 64)), DEIT, 'reads a map of stride 64, but'),
    ],
)
def test_maps_that_the_backbone_does_not_have_are_refused(old, new, message):
    with pytest.raises(InputError, match=message):
        adapt(dict(type='Some', neck=dict(type='FPN', in_channels=list(old.channels))), old, new)


def test_a_neck_that_names_no_channels_is_named_and_left():
    model = dict(type='Some', neck=dict(type='OtherNeck', widths=[256, 512, 1024, 2048]))
    assert adapt(model, R50, SWIN)[1] == [('model.neck', True)]
    assert model == dict(type='Some', neck=dict(type='OtherNeck', widths=[256, 512, 1024, 2048]))
