"""Small detectors with settled statistics that see something everywhere in a noise image."""

import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope

from tests.networks import settle

SWIN = dict(
    type='SLABSwinTransformer',
    arch=dict(embed_dims=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8)),
    window_sizes=(6, 5, 4, 3),
)
_PYRAMID = dict(embed_dims=(16, 32, 64, 128), depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
BACKBONES = dict(
    swin=SWIN,
    softmax_swin=dict(SWIN, attn_types='SSSS', norm_cfg='LN'),
    pvt=dict(
        type='SLABPyramidVisionTransformer',
        arch=dict(_PYRAMID, mlp_ratios=(2, 2, 2, 2)),
        img_size=64,
    ),
    pvt_v2=dict(
        type='SLABPyramidVisionTransformerV2',
        arch=dict(_PYRAMID, mlp_ratios=(2, 2, 2, 2)),
        img_size=64,
    ),
    cswin=dict(
        type='SLABCSWinTransformer',
        arch=dict(_PYRAMID, embed_dims=16, num_heads=(2, 2, 4, 8)),
        split_sizes=(1, 2, 3, 7),
        img_size=64,
    ),
)
CLASSES = ('left', 'right', 'top')
CHANNELS = 16


def _pyramid(backbone: dict) -> dict:
    return dict(backbone=backbone, neck=dict(in_channels=[16, 32, 64, 128], out_channels=CHANNELS))


def config(name: str, backbone: dict = SWIN) -> Config:
    """The config of a small 'retinanet', 'faster-rcnn' or 'mask-rcnn'."""
    cfg = Config.fromstring(f"_base_ = 'mmdet::_base_/models/{name}_r50_fpn.py'", '.py')
    merge = _pyramid(dict(backbone, _delete_=True))
    if name == 'retinanet':
        merge['bbox_head'] = dict(
            num_classes=3, in_channels=CHANNELS, feat_channels=CHANNELS, stacked_convs=1
        )
        merge['test_cfg'] = dict(nms_pre=60, max_per_img=40)
    else:
        head = dict(in_channels=CHANNELS, fc_out_channels=32, num_classes=3)
        extractor = dict(out_channels=CHANNELS)
        merge['rpn_head'] = dict(in_channels=CHANNELS, feat_channels=CHANNELS)
        merge['roi_head'] = dict(bbox_roi_extractor=extractor, bbox_head=head)
        if name == 'mask-rcnn':
            merge['roi_head'].update(
                mask_roi_extractor=extractor,
                mask_head=dict(
                    in_channels=CHANNELS, conv_out_channels=CHANNELS, num_convs=1, num_classes=3
                ),
            )
        merge['test_cfg'] = dict(rpn=dict(nms_pre=60, max_per_img=50), rcnn=dict(max_per_img=30))
    cfg.merge_from_dict(dict(model=merge))
    cfg.test_dataloader = ConfigDict(
        dataset=dict(
            type='CocoDataset',
            metainfo=dict(classes=CLASSES),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='Resize', scale=(160, 96), keep_ratio=True),
                dict(type='LoadAnnotations', with_bbox=True),
                dict(type='PackDetInputs'),
            ],
        )
    )
    return cfg


def build(cfg: Config, seed: int = 0) -> torch.nn.Module:
    """The detector of ``cfg`` with random weights, scores that differ and boxes that move."""
    init_default_scope('mmdet')
    torch.manual_seed(seed)
    model = settle(MODELS.build(cfg.model), seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith('backbone.') and parameter.dim() > 1:
                fan_in = parameter[0].numel()
                gain = 0.1 if name.endswith('reg.weight') else 1.0
                parameter.copy_(torch.randn(parameter.shape) * gain * fan_in**-0.5)
            elif name.endswith('.bias') and not name.startswith('backbone.'):
                parameter.zero_()
    return model
