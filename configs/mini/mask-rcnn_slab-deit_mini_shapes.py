# Mask R-CNN with a small SLAB-DeiT and a simple feature pyramid on the built-in data set.
_base_ = './mask-rcnn_slab-swin_mini_shapes.py'
model = dict(
    backbone=dict(
        _delete_=True, type='SLABVisionTransformer',
        arch=dict(embed_dims=96, depth=6, num_heads=3), attn_types='L',
        norm_cfg=dict(type='PRepBN'), drop_path_rate=0.0),
    neck=dict(
        _delete_=True, type='SimpleFPN', in_channels=96, out_channels=48, num_outs=5))
