"""Positional encodings that live on a fixed grid, resized to the map at hand."""

import torch.nn.functional as F
from torch import Tensor

from .cache import EvalCache


def resize_grid(
    tokens: Tensor, from_size: tuple[int, int], to_size: tuple[int, int], mode: str = 'bilinear'
) -> Tensor:
    """Resize a grid of tokens, ``(1, H0 * W0, C)`` to ``(1, H * W, C)``.

    Pixel centres are aligned as in ``interpolate(..., align_corners=False)``, without
    antialiasing, as mmdet resizes absolute position embeddings. Equal sizes return ``tokens``
    itself, so that the published grid is used bit for bit.

    Args:
        tokens: the grid, row by row.
        from_size: its height H0 and width W0.
        to_size: the height H and width W wanted.
        mode: 'bilinear' or 'bicubic'.

    Raises:
        ValueError: ``tokens`` does not hold ``H0 * W0`` tokens.
    """
    if tokens.shape[1] != from_size[0] * from_size[1]:
        raise ValueError(
            f'from_size={tuple(from_size)} does not fit the grid, which holds '
            f'{tokens.shape[1]} tokens.'
        )
    # Sizes of a trace are tensors, whose value is not to be looked at: the trace serves other
    # sizes. Equal ones are interpolated to the same numbers.
    if not any(isinstance(side, Tensor) for side in to_size) and tuple(from_size) == tuple(to_size):
        return tokens
    # The view is a channels-last image, which is what comes out as well: nothing is copied.
    grid = tokens.unflatten(1, tuple(from_size)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=tuple(to_size), mode=mode, align_corners=False)
    return grid.permute(0, 2, 3, 1).flatten(1, 2)


def square_grid(tokens: int) -> tuple[int, int]:
    """Return height and width of the square grid of ``tokens`` tokens.

    Raises:
        ValueError: the number is no square.
    """
    side = round(tokens**0.5)
    if side * side != tokens:
        raise ValueError(f'{tokens} tokens are no square grid; give height and width.')
    return side, side


class GridCache(EvalCache):
    """A module that keeps a resized grid while images of one size are evaluated."""

    def resized(
        self,
        tokens: Tensor,
        from_size: tuple[int, int],
        to_size: tuple[int, int],
        mode: str = 'bilinear',
    ) -> Tensor:
        """Return :func:`resize_grid` of the same arguments; ``tokens`` is a parameter."""
        to_size = tuple(to_size)
        return self.cached(
            ('grid', mode), tokens, lambda: resize_grid(tokens, from_size, to_size, mode), to_size
        )
