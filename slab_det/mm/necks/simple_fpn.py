"""A feature pyramid made of one map."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from timm.layers import LayerNorm2d
from torch import Tensor, nn

_INIT = dict(type='Xavier', layer='Conv2d', distribution='uniform')


@MODELS.register_module()
class SimpleFPN(BaseModule):
    """Simple feature pyramid of the last map of a plain vision transformer.

    Every level is made of the same map: stride 2 deconvolutions, nothing or max pooling bring
    it to its scale, a 1x1 and a 3x3 convolution to ``out_channels``, each with a LayerNorm over
    the channels. Coarser levels follow by subsampling the last one.

    Args:
        in_channels: channels C of the map, or a sequence that holds nothing else.
        out_channels: channels of every level.
        scales: sizes of the levels over the map's, in descending order; each one of 4, 2, 1 and
            0.5.
        num_outs: number of levels; those beyond ``scales`` halve the one before.
        init_cfg: initialisation, see mmengine's ``BaseModule``.

    Shapes:
        One map ``(B, C, H, W)`` to maps ``(B, out_channels, scale H, scale W)``, halves rounded
        up. At stride 16 the default levels have strides 4, 8, 16, 32 and 64.

    Raises:
        ValueError: an argument or the number of input maps that does not fit.

    Source: Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection", ECCV
    2022, section 3.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        out_channels: int = 256,
        scales: Sequence[float] = (4, 2, 1, 0.5),
        num_outs: int = 5,
        init_cfg: dict[str, Any] | None = _INIT,
    ) -> None:
        super().__init__(init_cfg)
        if not isinstance(in_channels, int):
            if len(in_channels) != 1:
                raise ValueError(
                    'in_channels must be that of one map, but got '
                    f'{tuple(in_channels)}; use FPN for several maps.'
                )
            in_channels = in_channels[0]
        if not scales or set(scales) - {4, 2, 1, 0.5} or list(scales) != sorted(set(scales))[::-1]:
            raise ValueError(
                'scales must be some of 4, 2, 1 and 0.5 in descending order, but got '
                f'{tuple(scales)}.'
            )
        if num_outs < len(scales):
            raise ValueError(
                f'num_outs must be {len(scales)} or more, one per scale of '
                f'{tuple(scales)}, but got {num_outs}.'
            )
        self.num_outs = num_outs
        self.levels = nn.ModuleList(_level(in_channels, out_channels, scale) for scale in scales)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the pyramid of ``inputs``, a sequence that holds one map."""
        if len(inputs) != 1:
            raise ValueError(
                f'SimpleFPN takes one map, but got {len(inputs)}; give the backbone '
                'one number in out_indices.'
            )
        outs = [level(inputs[0]) for level in self.levels]
        while len(outs) < self.num_outs:
            outs.append(F.max_pool2d(outs[-1], 1, stride=2))
        return tuple(outs)


def _level(channels: int, out_channels: int, scale: float) -> nn.Sequential:
    """Return what makes the level of size ``scale`` of a map with ``channels`` channels."""
    layers = []
    if scale == 4:
        layers += [
            nn.ConvTranspose2d(channels, channels // 2, 2, stride=2),
            LayerNorm2d(channels // 2),
            nn.GELU(),
        ]
        channels //= 2
    if scale > 1:
        layers.append(nn.ConvTranspose2d(channels, channels // 2, 2, stride=2))
        channels //= 2
    if scale < 1:
        # Rounded up, so that a map of one token still has a coarser level.
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    return nn.Sequential(
        *layers,
        nn.Conv2d(channels, out_channels, 1, bias=False),
        LayerNorm2d(out_channels),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        LayerNorm2d(out_channels),
    )
