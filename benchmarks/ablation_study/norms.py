"""BatchNorm alone, a cell of the ablation that the package itself does not need."""

import torch

from slab_det.layers import RepBN
from slab_det.layers.build import NORMS


class PlainBatchNorm(RepBN):
    """``BN(x)`` over tokens: a :class:`~slab_det.layers.RepBN` whose ``eta`` is 0 and stays so."""

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        del self.eta
        self.register_buffer('eta', torch.zeros(1))


def register() -> None:
    """Let ``norm_cfg=dict(type='BN')`` mean it, in this process."""
    NORMS['BN'] = PlainBatchNorm
