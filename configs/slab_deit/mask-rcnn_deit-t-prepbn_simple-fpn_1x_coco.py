_base_ = './mask-rcnn_slab-deit-t_simple-fpn_1x_coco.py'
model = dict(backbone=dict(attn_types='S'))
