# From LayerNorm to no norm in small: the detector that retinanet_swin-ln_mini_shapes.py trained
# goes on with mmdet's Swin Transformer and PRepBN.
_base_ = './retinanet_swin-ln_mini_shapes.py'
load_from = 'work_dirs/retinanet_swin-ln_mini_shapes/epoch_6.pth'
model = dict(backbone=dict(norm_cfg=dict(type='PRepBN')))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
custom_hooks = [
    dict(type='PRepBNHook', schedule='linear', end=0.8),
    *_base_.custom_hooks,
    dict(type='BNCalibrationHook', num_images=64, fit_layer_norm=True),
]
