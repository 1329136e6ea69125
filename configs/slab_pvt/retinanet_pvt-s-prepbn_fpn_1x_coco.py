_base_ = './retinanet_slab-pvt-s_fpn_1x_coco.py'
model = dict(backbone=dict(attn_types='SSSS'))
