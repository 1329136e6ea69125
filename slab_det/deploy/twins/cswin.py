"""The twins of CSWin's block and of its attention in stripes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from slab_det.models.cswin import CSWinBlock, MapLinearAttention, StripeAttention

from .bands import linear_attention_in_bands, runs_in_bands
from .chunks import feed_forward_in_chunks, runs_in_chunks
from .registry import twin_of


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
        return feed_forward_in_chunks(self, x)


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
