_base_ = [
    '../_base_/models/retinanet_slab-swin-t_fpn.py',
    '../_base_/datasets/coco_detection_ms-crop.py',
    '../_base_/schedules/adamw_1x.py',
    '../_base_/slab_runtime.py',
]
