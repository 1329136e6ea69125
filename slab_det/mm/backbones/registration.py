"""Registers the norms, so that ``norm_cfg=dict(type='PRepBN')`` works in any mm module."""

from mmdet.registry import MODELS
from mmengine.registry import MODELS as ROOT_MODELS

from slab_det.layers import ChannelAffine, PRepBN, RepBN

for _norm in (PRepBN, RepBN, ChannelAffine):
    # mmcv builds norms through the registry of the current scope, which is the root where no
    # detector is being built.
    for _registry in (MODELS, ROOT_MODELS):
        _registry.register_module(module=_norm)
