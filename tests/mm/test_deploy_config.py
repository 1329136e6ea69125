from mmengine.config import Config

from slab_det.layers import PRepBN
from slab_det.mm.backbones import SLABSwinTransformer
from slab_det.mm.deploy_config import deploy_config
from slab_det.mm.hooks import PRepBNHook


def test_our_backbones_are_told_and_foreign_norms_are_replaced():
    cfg = Config(
        dict(
            model=dict(
                type='MaskRCNN',
                backbone=dict(
                    type='SLABSwinTransformer',
                    norm_cfg=dict(type='PRepBN'),
                    init_cfg=dict(type='Pretrained', checkpoint='x.pth'),
                ),
                neck=[dict(type='FPN', norm_cfg=dict(type='BN'))],
                other=dict(
                    type='SwinTransformer',
                    norm_cfg=dict(type='PRepBN', momentum=0.1, requires_grad=False),
                ),
            ),
            custom_hooks=[dict(type='PRepBNHook'), dict(type='RandomStateHook')],
            load_from='y.pth',
            resume=True,
        )
    )
    new = deploy_config(cfg)
    backbone = new.model.backbone
    assert backbone.deploy is True and backbone.init_cfg is None
    assert new.model.neck[0].norm_cfg.type == 'BN'
    assert new.model.other.norm_cfg.to_dict() == dict(type='ChannelAffine', requires_grad=False)
    assert [hook.type for hook in new.custom_hooks] == ['RandomStateHook']
    assert new.load_from is None and new.resume is False
    assert 'deploy' not in cfg.model.backbone and len(cfg.custom_hooks) == 2


def test_types_may_be_classes_and_scoped_names():
    cfg = Config(
        dict(
            model=dict(
                type='SoftTeacher',
                detector=dict(
                    backbone=dict(type=SLABSwinTransformer, norm_cfg=dict(type=PRepBN)),
                    neck=dict(type='mmdet.FPN', norm_cfg=dict(type=PRepBN)),
                ),
            ),
            custom_hooks=[dict(type=PRepBNHook), dict(type='mmdet.BNCalibrationHook')],
        )
    )
    new = deploy_config(cfg)
    assert new.model.detector.backbone.deploy is True
    assert new.model.detector.neck.norm_cfg.type == 'ChannelAffine' and new.custom_hooks == []
