"""The networks that are compared."""

from collections.abc import Callable

import torch
from torch import nn

#: Everything is compared with this one.
BASELINE = 'mmdet Swin-T'


def _mmdet(**cfg) -> nn.Module:
    from mmdet.registry import MODELS

    return MODELS.build(cfg)


def _slab(**cfg) -> nn.Module:
    return _mmdet(**cfg)


def _ours(attn_types: str, deploy: bool, **cfg) -> nn.Module:
    from slab_det.layers import set_ratio

    model = _slab(
        type='SLABSwinTransformer', arch='tiny', attn_types=attn_types, deploy=deploy, **cfg
    )
    set_ratio(model, 0.0 if deploy else 0.5)
    return model


class _TimmFeatures(nn.Module):
    """timm's Swin-T as a pyramid of channels-first maps."""

    def __init__(self) -> None:
        super().__init__()
        import timm

        self.net = timm.create_model(
            'swin_tiny_patch4_window7_224',
            features_only=True,
            strict_img_size=False,
            out_indices=(0, 1, 2, 3),
        )

    def forward(self, x):
        # timm wants sizes that divide into windows; the other networks pad inside.
        x = nn.functional.pad(x, (0, -x.shape[3] % 224, 0, -x.shape[2] % 224))
        return tuple(out.permute(0, 3, 1, 2).contiguous() for out in self.net(x))


#: Backbones by the name in the table.
BACKBONES: dict[str, Callable[[], nn.Module]] = {
    BASELINE: lambda: _mmdet(type='SwinTransformer'),
    'timm Swin-T': _TimmFeatures,
    'mmdet PVT-T': lambda: _mmdet(type='PyramidVisionTransformer', num_layers=[2, 2, 2, 2]),
    'SLAB-Swin-T, deployed': lambda: _ours('LLSS', True),
    'Swin-T PRepBN, deployed': lambda: _ours('SSSS', True),
    'SLAB-Swin-T, before': lambda: _ours('LLSS', False),
    'Swin-T PRepBN, before': lambda: _ours('SSSS', False),
}

#: Linear attention in every family, deployed: time should grow with the pixels. Stages with softmax
#: attention attend in windows or stripes, CSWin's stripes excepted, which are as long as the map.
LINEAR = {
    'SLAB-Swin-T': lambda: _ours('LLSS', True),
    'SLAB-PVT-T': lambda: _slab(type='SLABPyramidVisionTransformer', arch='tiny', deploy=True),
    'SLAB-PVTv2-B0': lambda: _slab(type='SLABPyramidVisionTransformerV2', arch='b0', deploy=True),
    'SLAB-DeiT-T': lambda: _slab(
        type='SLABVisionTransformer', arch='tiny', attn_types='L', deploy=True
    ),
    'SLAB-CSWin-T': lambda: _slab(type='SLABCSWinTransformer', arch='tiny', deploy=True),
    'SLAB-CSWin-T, linear throughout': lambda: _slab(
        type='SLABCSWinTransformer', arch='tiny', attn_types='LLLL', deploy=True
    ),
    'mmdet Swin-T': BACKBONES[BASELINE],
    'mmdet PVT-T': BACKBONES['mmdet PVT-T'],
}

#: Networks in training; the ratio is 0.5, where both branches of every norm are computed.
TRAINED = {
    BASELINE: BACKBONES[BASELINE],
    'SLAB-Swin-T, ratio 0.5': lambda: _ours('LLSS', False, drop_path_rate=0.2),
    'Swin-T PRepBN, ratio 0.5': lambda: _ours('SSSS', False, drop_path_rate=0.2),
}


class Detector(nn.Module):
    """Mask R-CNN with FPN of mmdet's Swin config around a backbone; forward is its prediction."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        from mmdet.registry import MODELS
        from mmdet.structures import DetDataSample
        from mmdet.utils import register_all_modules
        from mmengine.config import Config
        from mmengine.hub import get_config

        register_all_modules(init_default_scope=True)
        cfg: Config = get_config('mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py')
        cfg.model.backbone.init_cfg = None
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = MODELS.build(cfg.model)
        self.model.backbone = backbone
        self.sample = DetDataSample

    def forward(self, x):
        height, width = x.shape[-2:]
        meta = dict(
            img_id=0,
            ori_shape=(height, width),
            img_shape=(height, width),
            pad_shape=(height, width),
            batch_input_shape=(height, width),
            scale_factor=(1.0, 1.0),
            flip=False,
        )
        return self.model(x, [self.sample(metainfo=meta) for _ in x], mode='predict')


def build(part: str, name: str) -> nn.Module:
    """Return the network ``name`` as ``part``: 'backbone', 'detector' or 'training'."""
    torch.manual_seed(0)
    model = (TRAINED if part == 'training' else BACKBONES)[name]()
    if part == 'detector':
        model = Detector(model)
    model.train(part == 'training')
    return model


def available(part: str, log: Callable[[str], None]) -> list:
    """Return the names that can be built here; say which cannot, and why."""
    names = []
    for name in TRAINED if part == 'training' else BACKBONES:
        if part == 'detector' and name in ('timm Swin-T', 'mmdet PVT-T'):
            continue  # another backbone would need another neck, or is there for the backbone alone
        try:
            build(part, name)
            names.append(name)
        except ImportError as error:
            log(f'{name} is left out: {error}')
    return names
