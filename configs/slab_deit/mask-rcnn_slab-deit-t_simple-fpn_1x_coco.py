_base_ = [
    '../_base_/models/mask-rcnn_slab-deit-t_simple-fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_1x.py',
    '../_base_/slab_runtime.py',
]
