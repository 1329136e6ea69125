# Mask R-CNN with a small SLAB-Swin on the built-in data set; tools/quickstart.sh trains it.
_base_ = [
    '../_base_/models/mask-rcnn_slab-swin-mini.py',
    '../_base_/datasets/shapes_instance.py',
    '../_base_/schedules/mini.py',
    '../_base_/slab_runtime.py',
]
default_hooks = dict(logger=dict(interval=25))
randomness = dict(seed=0)
