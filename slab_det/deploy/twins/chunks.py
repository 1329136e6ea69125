"""Inference on the CPU in chunks of tokens that stay in its cache.

A feed-forward part writes four times the channels it reads. For a detection image that is a
hundred megabytes per block, which a CPU writes to memory, reads back and, since the allocator
returns such blocks to the system, faults in again at every call. Token-wise work therefore runs
on a thousand tokens at a time. The arithmetic is the same; only the order of the work differs.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from slab_det.layers.cache import size_cache
from slab_det.layers.windows import shift_mask, window_layout

#: Tokens per chunk: four times 384 channels of them are 6 MB in float32.
CHUNK = 1024

#: Tokens per chunk of a compiled graph, where every chunk is code to compile: few enough that the
#: allocator keeps the memory of a chunk (up to 32 MB) for the next one.
COMPILED_CHUNK = 4096


def in_graph() -> bool:
    """Whether the computation is being traced or compiled, so that sizes belong to the graph."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def infers_on_cpu(module: nn.Module, x: Tensor) -> bool:
    """Whether ``module`` is used for inference on a CPU: training needs whole batches for its
    statistics, a GPU whole batches to be busy."""
    return x.device.type == 'cpu' and not module.training and not torch.is_grad_enabled()


def runs_in_chunks(module: nn.Module, x: Tensor) -> bool:
    """Whether ``module`` may treat ``x`` chunk by chunk: inference on a CPU, not being traced. A
    compiler or exporter sees one graph better than an unrolled loop."""
    return infers_on_cpu(module, x) and not in_graph()


def residual_in_chunks(x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
    """Return ``x + branch(x)`` for a token-wise ``branch`` on tokens ``(..., C)``."""
    rows = x.reshape(-1, x.shape[-1])
    out = torch.empty_like(rows)
    for part, target in zip(rows.split(CHUNK), out.split(CHUNK)):
        torch.add(part, branch(part), out=target)
    return out.view(x.shape)


def feed_forward(block: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the token-wise branch ``mlp(norm2(x))`` of a transformer's block."""
    return lambda tokens: block.mlp(block.norm2(tokens))


def residual_in_graph(x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
    """Return ``x + branch(x)`` for a token-wise ``branch`` in a graph that a compiler makes for
    inference on the CPU: in a few chunks, all of them part of the graph."""
    rows = x.reshape(-1, x.shape[-1])
    return torch.cat([part + branch(part) for part in rows.split(COMPILED_CHUNK)]).view(x.shape)


def maps_in_chunks(tokens: Tensor, token_wise: Callable[[Tensor], Tensor]) -> Tensor:
    """Return ``token_wise(tokens)`` of ``(B, L, C)`` with channels first, ``(B, C, L)``.

    Transposed whole, a large map is read against the grain of the memory.
    """
    batch, length, channels = tokens.shape
    out = tokens.new_empty(batch, channels, length)
    for image, target in zip(tokens, out):
        for part, columns in zip(image.split(CHUNK), target.split(CHUNK, dim=1)):
            columns.copy_(token_wise(part).t())
    return out


class WindowChunk(NamedTuple):
    """Some windows of a batch of maps.

    Attributes:
        rows: ``(windows * N,)`` map row of each token; padding points to row 0.
        padded: positions in ``rows`` that are padding, or None.
        valid: the other positions, or None where there is no padding.
        targets: map rows of the valid positions.
        mask: additive attention mask ``(windows, N, N)``, or None where it would be zero.
    """

    rows: Tensor
    padded: Tensor | None
    valid: Tensor | None
    targets: Tensor
    mask: Tensor | None


@size_cache(max_bytes=64 * 2**20)
def window_chunks(
    batch: int, height: int, width: int, window: int, shift: int, masked: bool
) -> list[WindowChunk]:
    """Cut maps into windows as :func:`window_layout` does, a few windows at a time.

    Args:
        batch, height, width: size of the token maps.
        window: side of a window in tokens.
        shift: cyclic shift in tokens.
        masked: whether windows that the shift made of distant parts get their mask. They come
            last, so that the others need none.
    """
    cpu = torch.device('cpu')
    layout = window_layout(batch, height, width, window, shift, cpu)
    tokens = window * window
    rows = layout.index.view(-1, tokens)
    is_padded = torch.zeros(rows.numel(), dtype=torch.bool, device=cpu)
    is_padded[layout.padded] = True
    is_padded = is_padded.view(-1, tokens)

    numbers = [torch.arange(rows.shape[0], device=cpu)]
    mask = None
    if masked and shift:
        mask = shift_mask(height, width, window, shift, cpu)
        needs = mask.flatten(1).any(1).repeat(batch)
        numbers = [(~needs).nonzero().flatten(), needs.nonzero().flatten()]
    chunks = []
    for part, chunk_mask in zip(numbers, (None, mask)):
        for windows in part.split(max(1, CHUNK // tokens)):
            if not len(windows):
                continue
            index, pad = rows[windows].flatten(), is_padded[windows].flatten()
            has_padding = bool(pad.any())
            chunks.append(
                WindowChunk(
                    rows=index,
                    padded=pad.nonzero().flatten() if has_padding else None,
                    valid=(~pad).nonzero().flatten() if has_padding else None,
                    targets=index[~pad],
                    mask=None if chunk_mask is None else chunk_mask[windows % layout.num_windows],
                )
            )
    return chunks
