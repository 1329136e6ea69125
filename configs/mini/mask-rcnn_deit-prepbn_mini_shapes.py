# Mask R-CNN with a small DeiT, softmax attention and PRepBN, on the built-in data set.
_base_ = './mask-rcnn_slab-deit_mini_shapes.py'
model = dict(backbone=dict(attn_types='S'))
