"""Inference on the CPU in bands of rows, for layers that look beyond their own token.

As in :mod:`.chunks`, the work stays in the cache and its buffers are small enough
for the allocator to keep. A depth-wise convolution needs the rows around a band; linear attention
over the whole map needs sums over all keys, which a first pass takes.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from slab_det.layers import LinearMixing
from slab_det.layers.attention import depthwise_over_heads

from .chunks import CHUNK, runs_in_chunks

#: Tokens per band: with more rows the ones around it, which are computed twice, weigh less.
BAND = 4096


class Band(NamedTuple):
    """Some rows of a map.

    Attributes:
        tokens: the band's tokens.
        around: the same with the neighbouring rows that the map has.
        skipped: rows of ``around`` above the band.
        rows: rows of the band.
    """

    tokens: slice
    around: slice
    skipped: int
    rows: int


def bands(height: int, width: int, halo: int) -> Iterator[Band]:
    """Cut a map of ``height x width`` tokens into bands with ``halo`` rows around each."""
    step = max(1, 4 * halo, BAND // width)
    for top in range(0, height, step):
        bottom = min(top + step, height)
        first, last = max(0, top - halo), min(height, bottom + halo)
        yield Band(
            slice(top * width, bottom * width),
            slice(first * width, last * width),
            top - first,
            bottom - top,
        )


def runs_in_bands(module: nn.Module, x: Tensor) -> bool:
    """Whether ``module`` may treat ``x`` in bands: where it may in chunks, but for half precision,
    whose sums :func:`slab_det.layers.simplified_linear_attention` takes in float32."""
    return (
        runs_in_chunks(module, x)
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled('cpu')
    )


def depthwise_in_band(
    around: Tensor, band: Band, width: int, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """Convolve a band depth-wise, with zeros beyond the map.

    Args:
        around: tokens ``(N, C)`` of the band and of ``K // 2`` rows around it.
        band: of :func:`bands` with a halo of ``K // 2``.
        width: of the map.
        weight, bias: as for :func:`slab_det.layers.attention.depthwise_over_heads`.

    Returns:
        ``(band.rows * width, C)``.
    """
    # Padding falls on rows around the band, which are cut off, unless the map ends with the band.
    out = depthwise_over_heads(around.unsqueeze(0), around.shape[0] // width, width, weight, bias)
    return out[0, band.skipped * width : (band.skipped + band.rows) * width]


def linear_attention_in_bands(
    attn: LinearMixing,
    tokens: Tensor,
    height: int,
    width: int,
    query: Callable[[Tensor], Tensor],
    key_value: Callable[[Tensor], Tensor],
    project: Callable[[Tensor], Tensor],
    eps: float = 1e-6,
) -> Tensor:
    """Return ``tokens + project(simplified linear attention)`` of maps ``(B, height * width, C)``.

    The formula is that of :func:`slab_det.layers.simplified_linear_attention`; only one map of
    values is kept.

    Args:
        attn: the attention, whose keys and values are not reduced.
        tokens: ``(B, height * width, C)``.
        height, width: of the map.
        query: gives queries before the ReLU of some tokens.
        key_value: gives keys before the ReLU, without positional encoding, and values of some
            tokens, side by side.
        project: projects the result.
        eps: keeps the quotient finite where a query is zero.
    """
    encoding = attn.resized(attn.positional_encoding, attn.grid, (height, width))[0]
    kernels = attn.kernels()
    out = torch.empty_like(tokens)
    for image, target in zip(tokens, out):
        values, state, total = _sums(attn, image, encoding, key_value)
        for band in bands(height, width, kernels[0].shape[-1] // 2):
            part = image[band.tokens]
            q = query(part).relu().unflatten(-1, (attn.num_heads, -1)).transpose(0, 1)
            mixed = torch.bmm(q, state) / (torch.bmm(q, total) + eps)
            mixed = mixed.transpose(0, 1).reshape(part.shape)
            mixed += depthwise_in_band(values[band.around], band, width, *kernels)
            torch.add(part, project(mixed), out=target[band.tokens])
    return out


def _sums(
    attn: LinearMixing, tokens: Tensor, encoding: Tensor, key_value: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values ``(N, C)``, ``relu(k)^T v`` ``(heads, D, D)`` and the sum of ``relu(k)``
    ``(heads, D, 1)`` over ``tokens: (N, C)``."""
    heads, head_dim = attn.num_heads, tokens.shape[-1] // attn.num_heads
    values = torch.empty_like(tokens)
    state = tokens.new_zeros(heads, head_dim, head_dim)
    total = tokens.new_zeros(heads, head_dim, 1)
    for part, place, kept in zip(*(t.split(CHUNK) for t in (tokens, encoding, values))):
        k, v = key_value(part).chunk(2, dim=-1)
        kept.copy_(v)
        k, v = (x.unflatten(-1, (heads, -1)).transpose(0, 1) for x in ((k + place).relu(), v))
        state.baddbmm_(k.transpose(1, 2), v)
        total += k.sum(1).unsqueeze(-1)
    return values, state, total
