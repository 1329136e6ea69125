"""The twin of DeiT's block."""

from torch import Tensor

from slab_det.models.deit import Block

from .chunks import feed_forward_in_chunks, runs_in_chunks
from .registry import twin_of


@twin_of(Block)
class BlockTwin(Block):
    """Computes the feed-forward part a few tokens at a time on a CPU."""

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        if not runs_in_chunks(self, x):
            return super().forward(x, height, width)
        return feed_forward_in_chunks(self, x + self.attn(self.norm1(x), height, width))
