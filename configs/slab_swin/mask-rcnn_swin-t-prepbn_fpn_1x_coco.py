_base_ = './mask-rcnn_slab-swin-t_fpn_1x_coco.py'
model = dict(backbone=dict(attn_types='SSSS'))
