"""Windows over a token map: padding, cyclic shift and partition as one gather of rows.

A map of ``H x W`` tokens is padded with zero tokens at the bottom and right to whole windows,
rolled up and left by ``shift`` and cut into windows, as in Liu et al., "Swin Transformer", ICCV
2021. All three only move tokens, so their composition is one index; its inverse undoes it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .cache import size_cache


class WindowLayout(NamedTuple):
    """Where the tokens of a map go when it is cut into windows.

    Attributes:
        num_windows: windows per image.
        index: ``(B * num_windows * window**2,)`` row of ``(B * H * W, C)`` that each window
            token takes; padded tokens point to row 0.
        inverse: ``(B * H * W,)`` row of the windows that each map token takes.
        padded: rows of the windows that are padding, or None where there is no padding.
    """

    num_windows: int
    index: Tensor
    inverse: Tensor
    padded: Tensor | None


def effective_shift(height: int, width: int, window: int, shift: int) -> int:
    """Return ``shift``, or 0 where the whole map fits one window."""
    return 0 if height <= window and width <= window else shift


def padded_size(height: int, width: int, window: int) -> tuple[int, int]:
    """Return the map's size after padding to whole windows."""
    return -(-height // window) * window, -(-width // window) * window


def _to_windows(grid: Tensor, window: int, shift: int) -> Tensor:
    """Cut ``grid: (Hp, Wp)`` into rows of windows ``(num_windows, window**2)``."""
    grid = grid.roll((-shift, -shift), (0, 1))
    rows, cols = grid.shape[0] // window, grid.shape[1] // window
    grid = grid.view(rows, window, cols, window).transpose(1, 2)
    return grid.reshape(rows * cols, window * window)


@size_cache(maxsize=128)
def window_layout(
    batch: int, height: int, width: int, window: int, shift: int, device: torch.device
) -> WindowLayout:
    """Return the :class:`WindowLayout` of ``batch`` maps; layouts are cached per size.

    Args:
        batch, height, width: size of the token maps.
        window: side of a window in tokens.
        shift: cyclic shift in tokens; see :func:`effective_shift`.
        device: where the indices are needed.
    """
    padded_h, padded_w = padded_size(height, width, window)
    grid = torch.full((padded_h, padded_w), -1, device='cpu')
    grid[:height, :width] = torch.arange(height * width, device='cpu').view(height, width)
    windows = _to_windows(grid, window, shift)
    rows = windows.flatten()
    valid = rows >= 0
    inverse = torch.empty(height * width, dtype=torch.long, device='cpu')
    inverse[rows[valid]] = valid.nonzero().flatten()

    images = torch.arange(batch, device='cpu')[:, None]
    index = torch.where(valid, rows + images * (height * width), 0).flatten()
    inverse = (inverse + images * rows.numel()).flatten()
    padded = None
    if not valid.all():
        padded = ((~valid).nonzero().flatten() + images * rows.numel()).flatten().to(device)
    return WindowLayout(windows.shape[0], index.to(device), inverse.to(device), padded)


class _MoveRows(torch.autograd.Function):
    """Gather rows; the gradient gathers them back, where autograd would scatter and add."""

    @staticmethod
    def forward(ctx, x, index, inverse, padded, inverse_padded):
        ctx.save_for_backward(index, inverse, padded, inverse_padded)
        out = x.index_select(0, index)
        if padded is not None:
            out[padded] = 0
        return out

    @staticmethod
    def backward(ctx, grad):
        index, inverse, padded, inverse_padded = ctx.saved_tensors
        grad = _MoveRows.apply(grad.contiguous(), inverse, index, inverse_padded, padded)
        return grad, None, None, None, None


def window_partition(x: Tensor, layout: WindowLayout) -> Tensor:
    """Cut maps into windows; padded tokens are zero.

    Args:
        x: ``(B, H * W, C)``.
        layout: of the same batch, height and width.

    Returns:
        ``(B * num_windows, window**2, C)``.
    """
    rows = _MoveRows.apply(
        x.reshape(-1, x.shape[-1]), layout.index, layout.inverse, layout.padded, None
    )
    return rows.view(x.shape[0] * layout.num_windows, -1, x.shape[-1])


def window_merge(windows: Tensor, layout: WindowLayout, batch: int) -> Tensor:
    """Undo :func:`window_partition`: put the windows back and drop the padding.

    Args:
        windows: ``(B * num_windows, window**2, C)``.
        layout: the layout they were cut by.
        batch: number of maps B.

    Returns:
        ``(B, H * W, C)``.
    """
    rows = _MoveRows.apply(
        windows.reshape(-1, windows.shape[-1]), layout.inverse, layout.index, None, layout.padded
    )
    return rows.view(batch, -1, windows.shape[-1])


@size_cache(maxsize=128)
def shift_mask(height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Return the additive attention mask of shifted windows, ``(num_windows, N, N)``, N =
    ``window**2``: 0 between tokens that are neighbours on the map as well, -100 between tokens
    that only the cyclic shift brought together.
    """
    padded_h, padded_w = padded_size(height, width, window)

    def region(size: int) -> Tensor:
        position = torch.arange(size, device='cpu')
        return (position >= size - window).long() + (position >= size - shift).long()

    regions = _to_windows(region(padded_h)[:, None] * 3 + region(padded_w)[None], window, 0)
    apart = regions[:, :, None] != regions[:, None, :]
    return torch.zeros(apart.shape, device='cpu').masked_fill_(apart, -100.0).to(device)
