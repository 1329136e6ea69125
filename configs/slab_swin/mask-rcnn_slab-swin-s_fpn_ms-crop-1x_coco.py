_base_ = './mask-rcnn_slab-swin-t_fpn_ms-crop-1x_coco.py'
model = dict(backbone=dict(arch='small', drop_path_rate=0.2))
