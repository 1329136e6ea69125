_base_ = './mask-rcnn_slab-deit-s_simple-fpn_1x_coco.py'
model = dict(backbone=dict(attn_types='S'))
