# RetinaNet with a small SLAB-Swin on BCCD, blood cells with boxes only, at 320x240 on a CPU.
# The folder with images/, train.json and val.json is named by the environment variable BCCD_ROOT.
# For your own COCO-format boxes change data_root, classes, the file names and the scale.
_base_ = ['../_base_/models/retinanet_slab-swin-mini.py', '../_base_/schedules/mini.py',
          '../_base_/slab_runtime.py']
data_root = '{{$BCCD_ROOT:data/bccd}}'
classes = ('RBC', 'WBC', 'Platelets')
scale = (320, 240)
max_epochs = 12

model = dict(
    data_preprocessor=dict(pad_size_divisor=1),  # all images are alike; zeros would enter BatchNorm
    backbone=dict(
        arch=dict(embed_dims=48, depths=(2, 2, 2, 2), num_heads=(2, 4, 8, 16)),
        window_sizes=(20, 10, 5, 10)),  # these divide the 80x60, 40x30 and 20x15 maps of the scale
    neck=dict(in_channels=[48, 96, 192, 384], out_channels=96, start_level=1,
              add_extra_convs='on_output', num_outs=5, norm_cfg=dict(type='BN')),
    bbox_head=dict(num_classes=len(classes), in_channels=96, feat_channels=96,
                   anchor_generator=dict(scales_per_octave=3, strides=[8, 16, 32, 64, 128])))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25],
         direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs',
         meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
dataset = dict(type='CocoDataset', data_root=data_root, metainfo=dict(classes=classes),
               data_prefix=dict(img='images/'))
train_dataloader = dict(
    batch_size=4, num_workers=1, persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(**dataset, ann_file='train.json', pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=8, num_workers=1, persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**dataset, ann_file='val.json', pipeline=test_pipeline, test_mode=True))
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file=data_root + '/val.json', metric='bbox')
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=50, by_epoch=False),
    dict(type='CosineAnnealingLR', T_max=max_epochs, end=max_epochs, eta_min=1e-5,
         by_epoch=True, convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=25))
randomness = dict(seed=0)
