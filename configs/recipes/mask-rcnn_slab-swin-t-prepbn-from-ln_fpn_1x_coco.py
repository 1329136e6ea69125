# From LayerNorm to no norm, with this package's Swin in the place of mmdet's: the backbone's
# weights are converted by init_cfg, neck and heads are loaded by load_from, both from the same detector.
# Another detector: --cfg-options load_from=FILE model.backbone.init_cfg.checkpoint=FILE
_base_ = ['./mask-rcnn_swin-t-prepbn-from-ln_fpn_1x_coco.py']
model = dict(
    backbone=dict(
        _delete_=True, type='SLABSwinTransformer', arch='tiny', attn_types='SSSS',
        norm_cfg=dict(type='PRepBN'), drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint=_base_.load_from, prefix='backbone.')))
