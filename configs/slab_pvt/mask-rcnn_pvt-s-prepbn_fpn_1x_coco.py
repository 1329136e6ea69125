_base_ = './mask-rcnn_slab-pvt-s_fpn_1x_coco.py'
model = dict(backbone=dict(attn_types='SSSS'))
# As published for this size.
optim_wrapper = dict(optimizer=dict(lr=2e-4, weight_decay=1e-4))
