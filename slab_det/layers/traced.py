"""Windows whose layout is computed inside the graph, for tracing, ONNX and ``torch.compile``.

In PyTorch the layout of a size is computed once in Python and kept. A traced graph must serve
sizes that it was not traced with, so there the height and width of a map are tensors and the
layout is integer arithmetic on them. A compiler does the same arithmetic on integers, where the
look-up of a kept layout would break its graph. The tokens still move in one gather each way.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .windows import effective_shift


class TracedLayout(NamedTuple):
    """Where the tokens of a map go when it is cut into windows; sizes are tensors.

    Attributes:
        index: ``(num_windows * window**2,)`` token ``y * W + x`` that each window token takes;
            padding takes the first.
        inside: ``(num_windows * window**2,)`` whether a window token is not padding.
        inverse: ``(H * W,)`` window token that each map token takes.
        region: ``(num_windows, window**2)`` part of the map that a window token belongs to;
            tokens of two parts are neighbours only because of the cyclic shift.
        tokens: ``window**2``.
    """

    index: Tensor
    inside: Tensor
    inverse: Tensor
    region: Tensor
    tokens: int


def in_graph() -> bool:
    """Whether the computation is being traced or compiled, so that layouts belong to the graph."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def traced_layout(
    height: int | Tensor,
    width: int | Tensor,
    window: int,
    shift: int,
    device: torch.device | None = None,
) -> TracedLayout:
    """Return the :class:`TracedLayout` of a map; see :func:`slab_det.layers.window_layout`.

    Args:
        height, width: the map's size; while tracing, scalars or 0-dim tensors.
        window: side of a window in tokens.
        shift: cyclic shift in tokens; it does not apply where the whole map fits one window.
        device: where the tokens are; by default the CPU.
    """
    if torch.compiler.is_compiling():
        shift = effective_shift(height, width, window, shift)
    else:
        height, width = (
            side if isinstance(side, Tensor) else torch.tensor(side) for side in (height, width)
        )
        if shift:
            shift = shift * ((height > window) | (width > window)).long()
    y, x = _Axis(height, window, shift, device), _Axis(width, window, shift, device)

    inside = (y.source < height)[:, None, :, None] & (x.source < width)[None, :, None, :]
    index = y.source[:, None, :, None] * width + x.source[None, :, None, :]
    index = torch.where(inside, index, 0).flatten()
    inverse = (y.window_of[:, None] * x.windows + x.window_of) * window**2
    inverse = (inverse + y.place_of[:, None] * window + x.place_of).flatten()
    region = y.region[:, None, :, None] * 3 + x.region[None, :, None, :]
    return TracedLayout(index, inside.flatten(), inverse, region.reshape(-1, window**2), window**2)


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

    def __init__(
        self, size: int | Tensor, window: int, shift: int | Tensor, device: torch.device | None
    ) -> None:
        self.windows = (size + (window - 1)) // window
        padded = self.windows * window
        position = torch.arange(padded, device=device)
        self.source = ((position + shift) % padded).view(-1, window)
        rolled = (torch.arange(size, device=device) + padded - shift) % padded
        self.window_of, self.place_of = rolled // window, rolled % window
        region = (position >= padded - window).long() + (position >= padded - shift).long()
        self.region = region.view(-1, window)


def traced_partition(tokens: Tensor, layout: TracedLayout, channels: int) -> Tensor:
    """Cut maps ``(B, H * W, C)`` into the rows of windows, ``(B * num_windows * window**2, C)``.

    Padded tokens are copies of another one, see :func:`traced_padding`. Rows, because exporters
    and runtimes add the bias of a linear layer at no cost only to matrices.
    """
    return tokens.index_select(1, layout.index).reshape(-1, channels)


def traced_padding(rows: Tensor, padding: Tensor, layout: TracedLayout, batch: int) -> Tensor:
    """Put ``padding: (C,)`` into the padded ones of ``rows`` ``(batch * num_windows * window**2, C)``.

    Only these rows are written: a runtime may do so in place, where a selection would read and write
    all of them. A compiler makes a selection part of the next loop, but a list of rows ends its graph.
    """
    if torch.compiler.is_compiling():
        return torch.where(layout.inside.repeat(batch)[:, None], rows, padding.to(rows.dtype))
    padded = (~layout.inside.repeat(batch)).nonzero().flatten()
    return rows.index_put((padded,), padding.to(rows.dtype).expand(padded.shape[0], -1))


def traced_merge(windows: Tensor, layout: TracedLayout, batch: int) -> Tensor:
    """Undo :func:`traced_partition`, ``(B * num_windows, window**2, C)`` to ``(B, H * W, C)``."""
    rows = windows.reshape(batch, -1, windows.shape[-1])
    return rows.index_select(1, layout.inverse)


def traced_mask(layout: TracedLayout, like: Tensor) -> Tensor:
    """Return the additive attention mask ``(num_windows, N, N)`` in the type of ``like``; see
    :func:`slab_det.layers.shift_mask`."""
    apart = layout.region[:, :, None] != layout.region[:, None, :]
    return torch.where(apart, like.new_tensor(-100.0), like.new_tensor(0.0))
