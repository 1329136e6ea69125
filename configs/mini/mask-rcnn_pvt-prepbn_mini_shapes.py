# Mask R-CNN with a small PVT, softmax attention and PRepBN, on the built-in data set.
_base_ = './mask-rcnn_slab-pvt_mini_shapes.py'
model = dict(backbone=dict(attn_types='SSSS'))
