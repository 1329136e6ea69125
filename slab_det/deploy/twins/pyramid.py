"""The twin of the block of PVT and PVTv2."""

import torch
import torch.nn.functional as F
from torch import Tensor

from slab_det.layers import ReducedLinearAttention
from slab_det.models.pyramid import PyramidBlock

from .bands import bands, depthwise_in_band, linear_attention_in_bands, runs_in_bands
from .chunks import feed_forward_in_chunks, runs_in_chunks
from .registry import twin_of


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
            return feed_forward_in_chunks(self, x)
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
