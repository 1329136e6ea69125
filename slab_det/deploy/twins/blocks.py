"""The twins of blocks, and of other modules that execute differently on a CPU or in a graph."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slab_det.layers import ReducedLinearAttention, TokenMap, effective_shift
from slab_det.models.cswin import CSWinBlock, MapLinearAttention, StripeAttention
from slab_det.models.deit import Block
from slab_det.models.pyramid import PyramidBlock
from slab_det.models.swin import SwinBlock

from .bands import bands, depthwise_in_band, linear_attention_in_bands, runs_in_bands
from .chunks import (
    feed_forward,
    in_graph,
    infers_on_cpu,
    maps_in_chunks,
    residual_in_chunks,
    residual_in_graph,
    runs_in_chunks,
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


@twin_of(PyramidBlock)
class PyramidBlockTwin(PyramidBlock):
    """Computes linear attention and the feed-forward part in bands or chunks on a CPU."""

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        if not runs_in_chunks(self, x):
            return super().forward(x, height, width)
        in_bands, attn = runs_in_bands(self, x), self.attn
        if in_bands and isinstance(attn, ReducedLinearAttention) and attn.sr_ratio == 1:
            x = linear_attention_in_bands(
                attn,
                x,
                height,
                width,
                lambda tokens: attn.q(self.norm1(tokens)),
                lambda tokens: attn.kv(self.norm1(tokens)),
                attn.proj,
            )
        else:
            x = x + attn(self.norm1(x), height, width)
        if not self.conv_mlp:
            return residual_in_chunks(x, feed_forward(self))
        if not in_bands:
            return x + self.mlp(self.norm2(x), height, width)
        return self._feed_forward_in_bands(x, height, width)

    def _feed_forward_in_bands(self, x: Tensor, height: int, width: int) -> Tensor:
        mlp = self.mlp
        kernels = mlp.dwconv.weight, mlp.dwconv.bias
        out = torch.empty_like(x)
        for image, target in zip(x, out):
            for band in bands(height, width, 1):
                hidden = mlp.fc1(self.norm2(image[band.around]))
                hidden = F.gelu(depthwise_in_band(hidden, band, width, *kernels))
                torch.add(image[band.tokens], mlp.fc2(hidden), out=target[band.tokens])
        return out


@twin_of(CSWinBlock)
class CSWinBlockTwin(CSWinBlock):
    """Computes linear attention in bands and the feed-forward part in chunks on a CPU."""

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        if not runs_in_chunks(self, x):
            return super().forward(x, height, width)
        attn = self.attns[0]
        if isinstance(attn, MapLinearAttention) and runs_in_bands(self, x):
            dims = (x.shape[-1], 2 * x.shape[-1])
            weights = self.qkv.weight.split(dims)
            biases = (None, None) if self.qkv.bias is None else self.qkv.bias.split(dims)
            x = linear_attention_in_bands(
                attn,
                x,
                height,
                width,
                lambda tokens: F.linear(self.norm1(tokens), weights[0], biases[0]),
                lambda tokens: F.linear(self.norm1(tokens), weights[1], biases[1]),
                self.proj,
            )
        else:
            x = x + self.proj(self.attend(self.norm1(x), height, width))
        return residual_in_chunks(x, feed_forward(self))


@twin_of(StripeAttention)
class StripeAttentionTwin(StripeAttention):
    """Pads the last stripe with zeros while tracing and masks their keys: a graph has as many
    parts at every size."""

    def forward(self, qkv: Tensor) -> Tensor:
        if self.stripe is None or not torch.jit.is_tracing():
            return super().forward(qkv)
        height, width = qkv.shape[1:3]
        length = width if self.vertical else height
        pad = -length % self.stripe
        inside = (torch.arange(length + pad) < length).view(-1, self.stripe)
        inside = inside[:, None, :] if self.vertical else inside[:, :, None]
        inside = inside.expand(-1, height, -1) if self.vertical else inside.expand(-1, -1, width)
        mask = torch.where(inside.flatten(1), 0.0, float('-inf')).to(qkv)[:, None, None]
        size = (height, self.stripe) if self.vertical else (self.stripe, width)
        qkv = F.pad(qkv, (0, 0, 0, 0, 0, pad) if self.vertical else (0, 0, 0, 0, 0, 0, 0, pad))
        out = self.attend(qkv, *size, mask.repeat(qkv.shape[0], 1, 1, 1))
        return out[:, :height, :width]


@twin_of(Block)
class BlockTwin(Block):
    """Computes the feed-forward part a few tokens at a time on a CPU."""

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        if not runs_in_chunks(self, x):
            return super().forward(x, height, width)
        return residual_in_chunks(x + self.attn(self.norm1(x), height, width), feed_forward(self))


@twin_of(TokenMap)
class TokenMapTwin(TokenMap):
    """Norms and transposes a few tokens at a time on a CPU."""

    def forward(self, tokens: Tensor, norm: nn.Module, height: int, width: int) -> Tensor:
        if not runs_in_chunks(self, tokens):
            return super().forward(tokens, norm, height, width)
        return maps_in_chunks(tokens, norm).unflatten(2, (height, width))
