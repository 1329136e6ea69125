# RetinaNet with a small SLAB-Swin on the built-in data set.
_base_ = [
    '../_base_/models/retinanet_slab-swin-mini.py',
    '../_base_/datasets/shapes_detection.py',
    '../_base_/schedules/mini.py',
    '../_base_/slab_runtime.py',
]
default_hooks = dict(logger=dict(interval=25))
randomness = dict(seed=0)
