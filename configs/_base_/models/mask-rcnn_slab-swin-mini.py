# A Mask R-CNN that trains from nothing in minutes on two CPU cores.
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'
num_classes = 5
channels = 48
norm_cfg = dict(type='BN')
# One sample per bin instead of up to sixteen: RoIAlign uses one thread on a CPU.
bbox_roi_layer = dict(type='RoIAlign', output_size=7, sampling_ratio=1)
mask_roi_layer = dict(type='RoIAlign', output_size=14, sampling_ratio=1)
model = dict(
    backbone=dict(
        _delete_=True, type='SLABSwinTransformer',
        arch=dict(embed_dims=32, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8)),
        attn_types='LLSS', window_sizes=(40, 20, 10, 5), norm_cfg=dict(type='PRepBN'),
        drop_path_rate=0.0),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=channels, norm_cfg=norm_cfg),
    rpn_head=dict(in_channels=channels, feat_channels=channels,
                  anchor_generator=dict(scales=[5])),
    roi_head=dict(
        bbox_roi_extractor=dict(
            out_channels=channels, roi_layer=bbox_roi_layer, finest_scale=28),
        # Boxes and masks are shared by the classes: five times the examples for each weight.
        bbox_head=dict(
            type='ConvFCBBoxHead', num_shared_convs=1, num_shared_fcs=1, in_channels=channels,
            conv_out_channels=channels, fc_out_channels=256, norm_cfg=norm_cfg,
            num_classes=num_classes, reg_class_agnostic=True),
        mask_roi_extractor=dict(
            out_channels=channels, roi_layer=mask_roi_layer, finest_scale=28),
        mask_head=dict(
            num_convs=1, in_channels=channels, conv_out_channels=channels,
            num_classes=num_classes, class_agnostic=True)),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=48, pos_fraction=0.4))),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)))
