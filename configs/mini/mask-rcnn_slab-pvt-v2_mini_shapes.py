# Mask R-CNN with a small SLAB-PVTv2 on the built-in data set.
_base_ = './mask-rcnn_slab-pvt_mini_shapes.py'
model = dict(backbone=dict(type='SLABPyramidVisionTransformerV2'))
