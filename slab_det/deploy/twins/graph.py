"""Attention in windows for tracing, ONNX and ``torch.compile``.

The layout of windows is part of the graph, so that it serves sizes which it was not made with.
Tokens move in one gather each way, which fuses and exports better than the scatter that suits
training.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from slab_det.layers import WindowLinearAttention, WindowSoftmaxAttention, effective_shift
from slab_det.layers.windows import WindowGrid, region_mask, window_grid


def graph_grid(
    height: int | Tensor,
    width: int | Tensor,
    window: int,
    shift: int,
    device: torch.device | None = None,
) -> WindowGrid:
    """Return the layout of a map's windows; see :func:`slab_det.layers.effective_shift`.

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
    return window_grid(height, width, window, shift, device)


def window_attention(
    attn: WindowLinearAttention | WindowSoftmaxAttention, x: Tensor, grid: WindowGrid, masked: bool
) -> Tensor:
    """Attend within the windows of maps ``x: (B, H * W, C)`` and project the result, ``(B, H * W,
    C)``.

    Queries, keys and values are projected apart, which spares a runtime to cut them out of one
    tensor. Padded queries are never looked at.
    """
    batch, channels = x.shape[0], attn.qkv.in_features
    # As rows, because exporters and runtimes add the bias of a linear layer at no cost only to
    # matrices. Padding is a copy of the first token for now.
    rows = x.index_select(1, grid.index).reshape(-1, channels)
    weights = attn.qkv.weight.chunk(3)
    biases = (None,) * 3 if attn.qkv.bias is None else attn.qkv.bias.chunk(3)
    q, k, v = (F.linear(rows, weight, bias) for weight, bias in zip(weights, biases))
    pad = attn.qkv.bias if attn.pad_qkv is None else attn.pad_qkv
    if pad is None:
        pad = attn.qkv.weight.new_zeros(attn.qkv.out_features)
    _, pad_k, pad_v = pad.chunk(3)
    k, v = fill_padding(k, pad_k, grid, batch), fill_padding(v, pad_v, grid, batch)
    q, k, v = (t.view(-1, attn.window**2, channels) for t in (q, k, v))
    mask = region_mask(grid.region).to(v.dtype) if masked else None
    out = attn.attend(q, k, v, mask).reshape(batch, -1, channels)
    out = out.index_select(1, grid.inverse).reshape(-1, channels)
    return attn.proj(out).view(batch, -1, channels)


def fill_padding(rows: Tensor, padding: Tensor, grid: WindowGrid, batch: int) -> Tensor:
    """Put ``padding: (C,)`` into the padded ones of ``rows``, those of all windows of the batch.

    Only these rows are written: a runtime may do so in place, where a selection would read and
    write all of them. A compiler makes a selection part of the next loop.
    """
    padding = padding.to(rows.dtype)
    if torch.compiler.is_compiling():
        return torch.where(grid.inside.repeat(batch)[:, None], rows, padding)
    padded = (~grid.inside.repeat(batch)).nonzero().flatten()
    return rows.index_put((padded,), padding.expand(padded.shape[0], -1))
