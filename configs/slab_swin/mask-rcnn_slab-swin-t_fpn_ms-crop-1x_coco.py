# The published recipe, which calls this augmentation "mstrain_480-800".
_base_ = [
    '../_base_/models/mask-rcnn_slab-swin-t_fpn.py',
    '../_base_/datasets/coco_instance_ms-crop.py',
    '../_base_/schedules/adamw_1x.py',
    '../_base_/slab_runtime.py',
]
