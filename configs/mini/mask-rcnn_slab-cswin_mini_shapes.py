# Mask R-CNN with a small SLAB-CSWin on the built-in data set.
_base_ = './mask-rcnn_slab-swin_mini_shapes.py'
model = dict(
    backbone=dict(
        _delete_=True, type='SLABCSWinTransformer',
        arch=dict(embed_dims=32, depths=(1, 2, 4, 1), num_heads=(1, 2, 4, 8)),
        attn_types='LLSS', norm_cfg=dict(type='PRepBN'), drop_path_rate=0.0))
