"""Published weights through timm's own loading."""

from typing import Any

from torch import Tensor, nn

from .convert import convert_state_dict
from .reading import select_state_dict


def checkpoint_filter_fn(checkpoint: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Convert what timm read from a file into the state dict of ``model``.

    timm itself adapts the first convolution to other image channels and drops a classifier for
    another number of classes, so their shapes are left to it.
    """
    weights, _ = convert_state_dict(
        select_state_dict(checkpoint),
        model.state_dict(),
        unchecked=('head.', model.pretrained_cfg['first_conv'] + '.'),
    )
    return weights
