# The weights start at random. To start from published ones, whose BatchNorm statistics the authors
# keep as they are, give
#   --cfg-options model.backbone.norm_eval=True model.backbone.init_cfg.type=Pretrained \
#       model.backbone.init_cfg.checkpoint=slab_pvt_tiny.pth
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='SLABPyramidVisionTransformer',
        arch='tiny',
        attn_types='LLLL',
        norm_cfg=dict(type='PRepBN'),
        drop_path_rate=0.1,
        out_indices=(1, 2, 3)),
    neck=dict(in_channels=[128, 320, 512], start_level=0))
