_base_ = './mask-rcnn_slab-pvt-v2-b0_fpn_1x_coco.py'
model = dict(backbone=dict(arch='b1'),
             neck=dict(in_channels=[64, 128, 320, 512]))
