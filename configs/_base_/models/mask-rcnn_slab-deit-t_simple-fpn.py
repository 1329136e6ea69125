# The weights start at random. To start from published ones, whose BatchNorm statistics the authors
# keep as they are, give
#   --cfg-options model.backbone.norm_eval=True model.backbone.init_cfg.type=Pretrained \
#       model.backbone.init_cfg.checkpoint=slab_deit_tiny.pth
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='SLABVisionTransformer',
        arch='tiny',
        attn_types='L',
        norm_cfg=dict(type='PRepBN'),
        drop_path_rate=0.1),
    # Levels of strides 4, 8, 16, 32 and 64 from the one map of stride 16.
    neck=dict(_delete_=True, type='SimpleFPN', in_channels=192, out_channels=256, num_outs=5))
