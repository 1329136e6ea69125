# Mask R-CNN with a small SLAB-PVT on the built-in data set.
_base_ = './mask-rcnn_slab-swin_mini_shapes.py'
model = dict(
    backbone=dict(
        _delete_=True, type='SLABPyramidVisionTransformer',
        arch=dict(embed_dims=(32, 64, 128, 256), depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8),
                  mlp_ratios=(4, 4, 4, 4)),
        attn_types='LLLL', img_size=160, norm_cfg=dict(type='PRepBN'), drop_path_rate=0.0))
