_base_ = './mask-rcnn_slab-swin-t_fpn_ms-crop-3x_coco.py'
optim_wrapper = dict(type='AmpOptimWrapper')
