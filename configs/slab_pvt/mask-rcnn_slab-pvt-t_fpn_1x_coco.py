_base_ = [
    '../_base_/models/mask-rcnn_slab-pvt-t_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_1x.py',
    '../_base_/slab_runtime.py',
]
