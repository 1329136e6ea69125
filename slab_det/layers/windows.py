"""Windows over a token map: padding, cyclic shift and partition as one move of rows.

A map of ``H x W`` tokens is padded with zero tokens at the bottom and right to whole windows,
rolled up and left by ``shift`` and cut into windows, as in Liu et al., "Swin Transformer", ICCV
2021. All three only move tokens, so their composition is one index, and its inverse undoes it. The
index is integer arithmetic on height and width, so that a compiler or a trace can follow it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .cache import size_cache

#: Memory of the layouts and of the masks that are kept. The masks of Swin-T's stages take 18 MiB at
#: 800x1336 pixels.
_MAX_BYTES = 64 * 2**20


class WindowLayout(NamedTuple):
    """Where the tokens of a batch of maps go when they are cut into windows.

    Attributes:
        num_windows: windows per image.
        index: ``(B * num_windows * window**2,)`` row of ``(B * H * W, C)`` that each window
            token takes; padded tokens point to row 0.
        inverse: ``(B * H * W,)`` row of the windows that each map token takes.
        padded: rows of the windows that are padding, in any order.
    """

    num_windows: int
    index: Tensor
    inverse: Tensor
    padded: Tensor


class WindowGrid(NamedTuple):
    """Where the tokens of one map go when it is cut into windows.

    Attributes:
        index: ``(num_windows * window**2,)`` token ``y * W + x`` that each window token takes;
            padding takes the first.
        inside: ``(num_windows * window**2,)`` whether a window token is not padding.
        inverse: ``(H * W,)`` window token that each map token takes.
        padded: window tokens that are padding, in any order.
        region: ``(num_windows, window**2)`` part of the map that a window token belongs to;
            tokens of two parts are neighbours only because of the cyclic shift.
    """

    index: Tensor
    inside: Tensor
    inverse: Tensor
    padded: Tensor
    region: Tensor


def effective_shift(height: int, width: int, window: int, shift: int) -> int:
    """Return ``shift``, or 0 where the whole map fits one window."""
    return 0 if height <= window and width <= window else shift


class _Axis:
    """One axis of a map: its size is padded to whole windows and rolled by ``shift``.

    Attributes:
        windows: number of windows along the axis.
        source: ``(windows, window)`` position on the map of each window position; padding is
            ``size`` or more.
        window_of, place_of: window of each position of the padded map, and its place in it.
        region: ``(windows, window)`` 0, 1 or 2: before the last window, before the cyclic wrap,
            behind it.
    """

    def __init__(
        self, size: int | Tensor, window: int, shift: int | Tensor, device: torch.device | None
    ) -> None:
        self.windows = (size + (window - 1)) // window
        padded = self.windows * window
        position = torch.arange(padded, device=device)
        self.source = ((position + shift) % padded).view(-1, window)
        rolled = (position + padded - shift) % padded
        self.window_of, self.place_of = rolled // window, rolled % window
        region = (position >= padded - window).long() + (position >= padded - shift).long()
        self.region = region.view(-1, window)


def window_grid(
    height: int | Tensor,
    width: int | Tensor,
    window: int,
    shift: int | Tensor,
    device: torch.device | None = None,
) -> WindowGrid:
    """Return the :class:`WindowGrid` of a map; sizes and shift may be tensors of a trace."""
    y, x = _Axis(height, window, shift, device), _Axis(width, window, shift, device)
    inside = (y.source < height)[:, None, :, None] & (x.source < width)[None, :, None, :]
    index = y.source[:, None, :, None] * width + x.source[None, :, None, :]
    place = (y.window_of[:, None] * x.windows + x.window_of) * window**2
    place = place + y.place_of[:, None] * window + x.place_of
    region = y.region[:, None, :, None] * 3 + x.region[None, :, None, :]
    return WindowGrid(
        index=torch.where(inside, index, 0).flatten(),
        inside=inside.flatten(),
        inverse=place[:height, :width].flatten(),
        padded=torch.cat([place[:height, width:].flatten(), place[height:].flatten()]),
        region=region.reshape(-1, window**2),
    )


@size_cache(_MAX_BYTES)
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
    grid = window_grid(height, width, window, shift, device)
    image = torch.arange(batch, device=device)[:, None]
    index = torch.where(grid.inside, grid.index + image * (height * width), 0)
    first = image * grid.index.shape[0]
    inverse, padded = (grid.inverse + first).flatten(), (grid.padded + first).flatten()
    return WindowLayout(grid.region.shape[0], index.flatten(), inverse, padded)


def window_partition(x: Tensor, layout: WindowLayout) -> Tensor:
    """Cut maps into windows; padded tokens are zero.

    Args:
        x: ``(B, H * W, C)``.
        layout: of the same batch, height and width.

    Returns:
        ``(B * num_windows, window**2, C)``.
    """
    batch, _, channels = x.shape
    # Written to their place rather than gathered: the gradient is then a gather, which is much
    # faster than the sum at each index that a gather would get.
    rows = x.new_zeros(layout.index.shape[0], channels)
    rows = rows.index_copy_(0, layout.inverse, x.reshape(-1, channels))
    return rows.view(batch * layout.num_windows, -1, channels)


def window_merge(windows: Tensor, layout: WindowLayout, batch: int) -> Tensor:
    """Undo :func:`window_partition`: put the windows back and drop the padding.

    Args:
        windows: ``(B * num_windows, window**2, C)``.
        layout: the layout they were cut by.
        batch: number of maps B.

    Returns:
        ``(B, H * W, C)``.
    """
    channels = windows.shape[-1]
    rows = windows.reshape(-1, channels).index_select(0, layout.inverse)
    return rows.view(batch, -1, channels)


@size_cache(_MAX_BYTES)
def shift_mask(height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Return the additive attention mask of shifted windows, ``(num_windows, N, N)``, N =
    ``window**2``: 0 between tokens that are neighbours on the map as well, -100 between tokens
    that only the cyclic shift brought together.
    """
    return region_mask(window_grid(height, width, window, shift, device).region)


def region_mask(region: Tensor) -> Tensor:
    """Return the mask of :func:`shift_mask` for the ``region`` of a :class:`WindowGrid`."""
    return torch.where(region[:, :, None] != region[:, None, :], -100.0, 0.0)
