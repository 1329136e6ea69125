_base_ = './mask-rcnn_slab-deit-s_simple-fpn_1x_coco.py'
model = dict(backbone=dict(attn_types='S'))
# Softmax attention comes with a class token.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'cls_token': dict(decay_mult=0.0)}))
