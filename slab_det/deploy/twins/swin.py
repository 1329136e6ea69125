"""The twin of Swin's block."""

import torch
from torch import Tensor

from slab_det.layers import effective_shift
from slab_det.models.swin import SwinBlock

from .chunks import (
    feed_forward,
    in_graph,
    infers_on_cpu,
    residual_in_chunks,
    residual_in_graph,
    window_chunks,
)
from .graph import graph_grid, window_attention
from .registry import twin_of


@twin_of(SwinBlock)
class SwinBlockTwin(SwinBlock):
    """Computes the block a few windows at a time on a CPU, or with the layout of its windows as a
    part of the graph."""

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        if in_graph():
            return self._in_graph(x, height, width)
        if infers_on_cpu(self, x):
            return self._in_chunks(x, height, width)
        return super().forward(x, height, width)

    def _in_graph(self, x: Tensor, height: int | Tensor, width: int | Tensor) -> Tensor:
        grid = graph_grid(height, width, self.window, self.shift, x.device)
        mixed = window_attention(self.attn, self.norm1(x), grid, self.masked and self.shift > 0)
        x = x + self.drop_path(mixed)
        if torch.compiler.is_compiling() and infers_on_cpu(self, x):
            return residual_in_graph(x, feed_forward(self))
        # As rows, see window_attention.
        dim = self.mlp.fc1.in_features
        hidden = self.mlp(self.norm2(x).reshape(-1, dim)).view(x.shape[0], -1, dim)
        return x + self.drop_path(hidden)

    def _in_chunks(self, x: Tensor, height: int, width: int) -> Tensor:
        """Compute both halves of the block while the tokens of a few windows are in the cache."""
        shift = effective_shift(height, width, self.window, self.shift)
        rows = x.reshape(-1, x.shape[-1])
        out = torch.empty_like(rows)
        for chunk in window_chunks(x.shape[0], height, width, self.window, shift, self.masked):
            part = rows.index_select(0, chunk.rows)
            windows = self.norm1(part)
            if chunk.padded is not None and self.attn.pad_qkv is None:
                windows = windows.index_fill(0, chunk.padded, 0)
            windows = windows.view(-1, self.window**2, x.shape[-1])
            mixed = self.attn.attend(*self.attn.project(windows, chunk.padded), chunk.mask)
            mixed = mixed.view(part.shape)
            if chunk.valid is not None:
                part, mixed = (t.index_select(0, chunk.valid) for t in (part, mixed))
            part += self.attn.proj(mixed)
            out[chunk.targets] = residual_in_chunks(part, feed_forward(self))
        return out.view(x.shape)
