# A RetinaNet that trains from nothing in minutes on two CPU cores.
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
channels = 64
model = dict(
    backbone=dict(
        _delete_=True, type='SLABSwinTransformer',
        arch=dict(embed_dims=32, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8)),
        attn_types='LLSS', window_sizes=(40, 20, 10, 5), norm_cfg=dict(type='PRepBN'),
        drop_path_rate=0.0),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=channels, start_level=0,
              add_extra_convs=False, num_outs=4),
    bbox_head=dict(
        num_classes=5, in_channels=channels, feat_channels=channels, stacked_convs=2,
        anchor_generator=dict(octave_base_scale=4, scales_per_octave=2, strides=[4, 8, 16, 32])))
