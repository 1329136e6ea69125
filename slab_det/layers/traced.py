"""Windows whose layout is computed inside the graph, for tracing and ONNX.

In PyTorch the layout of a size is computed once in Python and kept. A traced graph must serve
sizes that it was not traced with, so there the height and width of a map are tensors and the
layout is integer arithmetic on them. The tokens still move in one gather each way.
"""
from typing import NamedTuple

import torch
from torch import Tensor


class TracedLayout(NamedTuple):
    """Where the tokens of a map go when it is cut into windows; sizes are tensors.

    Attributes:
        index: ``(num_windows * window**2,)`` token ``y * W + x`` that each window token takes;
            padding takes ``H * W``, one behind the last token.
        inverse: ``(H * W,)`` window token that each map token takes.
        region: ``(num_windows, window**2)`` part of the map that a window token belongs to;
            tokens of two parts are neighbours only because of the cyclic shift.
        tokens: ``window**2``.
    """
    index: Tensor
    inverse: Tensor
    region: Tensor
    tokens: int


def traced_layout(height: Tensor, width: Tensor, window: int, shift: int) -> TracedLayout:
    """Return the :class:`TracedLayout` of a map; see :func:`slab_det.layers.window_layout`.

    Args:
        height, width: integers of the map's size, as scalars or 0-dim tensors.
        window: side of a window in tokens.
        shift: cyclic shift in tokens; it does not apply where the whole map fits one window.
    """
    height, width = (side if isinstance(side, Tensor) else torch.tensor(side) for side in (height, width))
    if shift:
        shift = shift * ((height > window) | (width > window)).long()
    y, x = _Axis(height, window, shift), _Axis(width, window, shift)

    inside = (y.source < height)[:, None, :, None] & (x.source < width)[None, :, None, :]
    index = y.source[:, None, :, None] * width + x.source[None, :, None, :]
    index = torch.where(inside, index, height * width).flatten()
    inverse = (y.window_of[:, None] * x.windows + x.window_of) * window**2
    inverse = (inverse + y.place_of[:, None] * window + x.place_of).flatten()
    region = y.region[:, None, :, None] * 3 + x.region[None, :, None, :]
    return TracedLayout(index, inverse, region.reshape(-1, window**2), window**2)


class _Axis:
    """One axis of a map: its size is padded to whole windows and rolled by ``shift``.

    Attributes:
        windows: number of windows along the axis.
        source: ``(windows, window)`` position on the map of each window position; padding is
            ``size`` or more.
        window_of, place_of: ``(size,)`` window of a map position, and its place in it.
        region: ``(windows, window)`` 0, 1 or 2: before the last window, before the cyclic wrap,
            behind it.
    """

    def __init__(self, size: Tensor, window: int, shift) -> None:
        self.windows = (size + (window - 1)) // window
        padded = self.windows * window
        position = torch.arange(padded)
        self.source = ((position + shift) % padded).view(-1, window)
        rolled = (torch.arange(size) + padded - shift) % padded
        self.window_of, self.place_of = rolled // window, rolled % window
        region = (position >= padded - window).long() + (position >= padded - shift).long()
        self.region = region.view(-1, window)


def traced_partition(tokens: Tensor, padding: Tensor, layout: TracedLayout) -> Tensor:
    """Cut maps into windows.

    Args:
        tokens: ``(B, H * W, C)``.
        padding: ``(C,)``, what a token that pads the map is.
        layout: of the map.

    Returns:
        ``(B * num_windows, window**2, C)``.
    """
    row = padding.to(tokens.dtype).expand(tokens.shape[0], 1, -1)
    rows = torch.cat([tokens, row], 1).index_select(1, layout.index)
    return rows.reshape(-1, layout.tokens, len(padding))


def traced_merge(windows: Tensor, layout: TracedLayout, batch: int) -> Tensor:
    """Undo :func:`traced_partition`, ``(B * num_windows, window**2, C)`` to ``(B, H * W, C)``."""
    rows = windows.reshape(batch, -1, windows.shape[-1])
    return rows.index_select(1, layout.inverse)


def traced_mask(layout: TracedLayout, like: Tensor) -> Tensor:
    """Return the additive attention mask ``(num_windows, N, N)`` in the type of ``like``; see
    :func:`slab_det.layers.shift_mask`."""
    apart = layout.region[:, :, None] != layout.region[:, None, :]
    return torch.where(apart, like.new_tensor(-100.0), like.new_tensor(0.0))
