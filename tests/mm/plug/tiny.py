"""A backbone and a detector that are built in no time."""

BACKBONE = dict(
    type='SLABSwinTransformer',
    attn_types='LLSS',
    norm_cfg=dict(type='PRepBN'),
    window_sizes=(8, 4, 7, 7),
    arch=dict(embed_dims=32, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8)),
)

DETECTOR = """
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[103.53, 116.28, 123.675], std=[1., 1., 1.],
        bgr_to_rgb=False, pad_size_divisor=32),
    backbone=dict(
        type='ResNet', depth=18, frozen_stages=1, norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='no.pth')),
    neck=dict(
        type='FPN', in_channels=[64, 128, 256, 512], out_channels=16, start_level=1, num_outs=3),
    bbox_head=dict(
        type='RetinaHead', num_classes=4, in_channels=16, feat_channels=16, stacked_convs=1,
        anchor_generator=dict(
            type='AnchorGenerator', scales=[4], ratios=[1.0], strides=[8, 16, 32]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
    train_cfg=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
        sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(
        nms_pre=10, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10))
optim_wrapper = dict(
    type='OptimWrapper', clip_grad=dict(max_norm=35),
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001))
param_scheduler = [
    dict(type='LinearLR', begin=0, end=5),
    dict(type='CosineAnnealingLR', T_max=9, eta_min=0.001)]
custom_hooks = [dict(type='NumClassCheckHook')]
auto_scale_lr = dict(base_batch_size=32)
"""
