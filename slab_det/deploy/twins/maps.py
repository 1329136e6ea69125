"""The twin of the step from tokens to maps."""

from torch import Tensor, nn

from slab_det.layers import TokenMap

from .chunks import maps_in_chunks, runs_in_chunks
from .registry import twin_of


@twin_of(TokenMap)
class TokenMapTwin(TokenMap):
    """Norms and transposes a few tokens at a time on a CPU."""

    def forward(self, tokens: Tensor, norm: nn.Module, height: int, width: int) -> Tensor:
        if not runs_in_chunks(self, tokens):
            return super().forward(tokens, norm, height, width)
        return maps_in_chunks(tokens, norm).unflatten(2, (height, width))
