# Mask R-CNN with a small SLAB-Swin on 14 photographs of dates, figs and hazelnuts, on a CPU.
# The folder with images/, train.json and val.json is named by the environment variable NUTS_ROOT.
# For your own COCO-format masks change data_root, classes, the file names and the scales.
_base_ = ['../_base_/models/mask-rcnn_slab-swin-mini.py', '../_base_/schedules/mini.py',
          '../_base_/slab_runtime.py']
data_root = '{{$NUTS_ROOT:data/nuts}}'
classes = ('date', 'fig', 'hazelnut')
scale = (320, 240)
max_epochs = 12

model = dict(
    data_preprocessor=dict(pad_size_divisor=1),  # all images are alike; zeros would enter BatchNorm
    backbone=dict(window_sizes=(20, 10, 5, 10)),  # these divide the 80x60, 40x30 and 20x15 maps
    rpn_head=dict(anchor_generator=dict(scales=[8])),
    roi_head=dict(bbox_head=dict(num_classes=len(classes)),
                  mask_head=dict(num_classes=len(classes))))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', scale=scale, ratio_range=(0.8, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(240, 320), recompute_bbox=True),
    # A crop may leave a corner of a box and nothing of its mask: boxes of size 0, losses of NaN.
    dict(type='FilterAnnotations', min_gt_bbox_wh=(4, 4)),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25],
         direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PhotoMetricDistortion', hue_delta=9),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs',
         meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
dataset = dict(type='CocoDataset', data_root=data_root, metainfo=dict(classes=classes),
               data_prefix=dict(img='images/'))
train_dataloader = dict(
    batch_size=4, num_workers=1, persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='RepeatDataset', times=16,  # an epoch shows each photograph 16 times
                 dataset=dict(**dataset, ann_file='train.json', pipeline=train_pipeline)))
val_dataloader = dict(
    batch_size=1, num_workers=1, persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**dataset, ann_file='val.json', pipeline=test_pipeline, test_mode=True))
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file=data_root + '/val.json', metric=['bbox', 'segm'])
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=100, by_epoch=False),
    dict(type='CosineAnnealingLR', T_max=max_epochs, end=max_epochs, eta_min=1e-5,
         by_epoch=True, convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=25))
randomness = dict(seed=0)
