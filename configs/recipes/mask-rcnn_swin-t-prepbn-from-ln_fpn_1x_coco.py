# From LayerNorm to no norm, with mmdet's own Swin Transformer: the trained detector's LayerNorm
# weights fill the LayerNorm branch, so that at ratio 1 it detects as before; over four fifths of
# the training the branch fades out.
# Another detector: --cfg-options load_from=FILE. Afterwards: tools/reparameterize.py, see
# docs/training.md.
_base_ = ['mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py', '../_base_/from_layer_norm.py']
load_from = 'https://download.openmmlab.com/mmdetection/v2.0/swin/mask_rcnn_swin-t-p4-w7_fpn_1x_coco/mask_rcnn_swin-t-p4-w7_fpn_1x_coco_20210902_120937-9d6b7cfa.pth'
model = dict(backbone=dict(norm_cfg=dict(type='PRepBN'), init_cfg=None))
# As in slab_runtime.py; of two bases only one may name the default hooks, and mmdet's does.
default_hooks = dict(checkpoint=dict(backend_args=dict(backend='whole')))
# The RepBN branch is new to the detector: gradients through it are large at first.
optim_wrapper = dict(
    constructor='SLABOptimWrapperConstructor', clip_grad=dict(max_norm=5.0, norm_type=2))
