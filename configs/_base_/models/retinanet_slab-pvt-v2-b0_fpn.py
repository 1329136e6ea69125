# The authors have released no weights of SLAB-PVTv2; these start at random. Weights of your own, or
# of timm's pvt_v2 (with attn_types='SSSS'), are given by
#   --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='SLABPyramidVisionTransformerV2',
        arch='b0',
        attn_types='LLLL',
        norm_cfg=dict(type='PRepBN'),
        drop_path_rate=0.1,
        out_indices=(1, 2, 3)),
    neck=dict(in_channels=[64, 160, 256], start_level=0))
