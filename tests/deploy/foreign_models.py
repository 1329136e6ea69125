"""Small models of other libraries, with random weights, and what they are called with."""

from collections import OrderedDict

import pytest
import timm
import torch
from torch import nn


def images(count=2, size=64, seed=0):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def timm_vit():
    return timm.create_model('vit_tiny_patch16_224', img_size=64, depth=2, num_classes=5)


def timm_swin():
    return timm.create_model(
        'swin_tiny_patch4_window7_224', img_size=64, embed_dim=24, depths=(2, 2), num_heads=(2, 4)
    )


def torchvision_swin():
    from torchvision.models import SwinTransformer

    return SwinTransformer([4, 4], 24, [2, 2], [2, 4], [4, 4], num_classes=5)


class SwinMaps(nn.Module):
    """torchvision's Swin as a backbone: its maps with the channels first, under a pyramid."""

    out_channels = 16

    def __init__(self):
        super().__init__()
        from torchvision.ops import FeaturePyramidNetwork

        self.features = torchvision_swin().features
        self.fpn = FeaturePyramidNetwork([24, 48], self.out_channels)

    def forward(self, x):
        maps = OrderedDict()
        for i, stage in enumerate(self.features):
            x = stage(x)
            if i % 2:
                maps[str(i // 2)] = x.permute(0, 3, 1, 2).contiguous()
        return self.fpn(maps)


def torchvision_faster_rcnn():
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.rpn import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign

    return FasterRCNN(
        SwinMaps(),
        num_classes=4,
        min_size=96,
        max_size=128,
        rpn_anchor_generator=AnchorGenerator(((16,), (32,)), ((0.5, 1.0, 2.0),) * 2),
        box_roi_pool=MultiScaleRoIAlign(['0', '1'], 4, 2),
        box_score_thresh=0.0,
        box_detections_per_img=20,
    )


def rt_detr(**options):
    transformers = pytest.importorskip('transformers')
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 16, 32],
        depths=[1, 1, 1, 1],
        layer_type='basic',
        out_features=['stage2', 'stage3', 'stage4'],
    )
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[16, 16, 32],
        encoder_hidden_dim=16,
        encoder_ffn_dim=32,
        encoder_attention_heads=2,
        d_model=16,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=32,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_n_points=2,
        num_queries=12,
        num_denoising=4,
        num_labels=3,
        initializer_range=0.2,
        **options,
    )
    return transformers.RTDetrForObjectDetection(config)


def boxes_of(count):
    """One target for each image, in the forms of torchvision and of transformers."""
    label = torch.tensor([1])
    absolute = [dict(boxes=torch.tensor([[8.0, 8, 40, 48]]), labels=label) for _ in range(count)]
    relative = [
        dict(boxes=torch.tensor([[0.4, 0.4, 0.5, 0.6]]), class_labels=label) for _ in range(count)
    ]
    return absolute, relative


def loss_of(model, x):
    """The loss of one training step, whichever library the model is from."""
    absolute, relative = boxes_of(len(x))
    if type(model).__name__ == 'FasterRCNN':
        return sum(model(list(x), absolute).values())
    if type(model).__name__.startswith('RTDetr'):
        return model(pixel_values=x, labels=relative).loss
    return nn.functional.cross_entropy(model(x), torch.arange(len(x)))


def outputs_of(model, x):
    """All tensors that inference gives for the images, in a fixed order."""
    if type(model).__name__ == 'FasterRCNN':
        detections = model(list(x))
        return [found[name] for found in detections for name in ('boxes', 'scores', 'labels')]
    if type(model).__name__.startswith('RTDetr'):
        out = model(pixel_values=x)
        return [out.logits, out.pred_boxes, *out.encoder_last_hidden_state]
    return [model(x)]
