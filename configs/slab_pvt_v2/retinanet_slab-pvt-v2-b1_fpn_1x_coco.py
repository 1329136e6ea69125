_base_ = './retinanet_slab-pvt-v2-b0_fpn_1x_coco.py'
model = dict(backbone=dict(arch='b1'),
             neck=dict(in_channels=[128, 320, 512]))
