# RetinaNet with a small Swin of mmdet and LayerNorm, on the built-in data set: the detector that
# retinanet_swin-prepbn-from-ln_mini_shapes.py takes its norms from.
_base_ = [
    '../_base_/models/retinanet_slab-swin-mini.py',
    '../_base_/datasets/shapes_detection.py',
    '../_base_/schedules/mini.py',
    '../_base_/slab_runtime.py',
]
model = dict(
    backbone=dict(
        _delete_=True, type='SwinTransformer', embed_dims=32, depths=(1, 1, 2, 1),
        num_heads=(1, 2, 4, 8), window_size=5, drop_path_rate=0.0, norm_cfg=dict(type='LN')))
# Unlike this package's backbones, mmdet's does not name its parameters without decay.
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(relative_position_bias_table=dict(decay_mult=0.0))))
default_hooks = dict(logger=dict(interval=25))
custom_hooks = [dict(type='RandomStateHook')]  # without the hook for PRepBN, of which there is none
randomness = dict(seed=0)
