_base_ = './retinanet_slab-pvt-v2-b1_fpn_1x_coco.py'
model = dict(backbone=dict(arch='b2'))
