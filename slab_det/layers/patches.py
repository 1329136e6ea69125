"""From image to tokens and from one stage's tokens to the next."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slab_det.errors import InputError

from .folding import fold_norm_after_conv, fold_norm_into_linear
from .padding import follow_map

NormLayer = Callable[[int], nn.Module]


class PatchEmbed(nn.Module):
    """Cut an image into patches and embed each: ``norm(conv(x))``.

    The image is padded with zeros at the bottom and right to whole patches.

    Args:
        patch_size: side of a patch in pixels.
        in_chans: channels of the image.
        embed_dim: channels C of a token.
        norm_layer: builds the norm from a number of channels; None for no norm.
    """

    def __init__(
        self,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        norm_layer: NormLayer | None = None,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, stride=patch_size)
        self.norm = nn.Identity() if norm_layer is None else norm_layer(embed_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        """Return tokens ``(B, H * W, C)`` of an image ``(B, in_chans, h, w)``, H and W.

        Raises:
            InputError: the image is smaller than a patch.
        """
        height, width = x.shape[-2:]
        if min(height, width) < self.patch_size:
            raise InputError(
                f'image is {height}x{width} pixels (height x width), smaller than a patch of '
                f'{self.patch_size}x{self.patch_size}; resize it to at least one patch.'
            )
        x = F.pad(x, (0, -width % self.patch_size, 0, -height % self.patch_size))
        # Channels last, the convolution writes tokens as they are wanted.
        x = self.proj(x.contiguous(memory_format=torch.channels_last))
        before, (height, width) = (height, width), x.shape[-2:]
        follow_map(before, (height, width), lambda side: -(-side // self.patch_size))
        return self.norm(x.flatten(2).transpose(1, 2)), height, width

    def reparameterize(self) -> None:
        """Fold the norm into the convolution."""
        if not isinstance(self.norm, nn.Identity):
            self.norm = fold_norm_after_conv(self.proj, self.norm)


class PatchMerging(nn.Module):
    """Merge 2x2 tokens into one of twice the channels: ``reduction(norm(concat(x)))``.

    Tokens are concatenated column by column, top to bottom: rows and columns (0, 0), (1, 0),
    (0, 1), (1, 1), as in Swin. An odd map is padded with zeros before the norm.

    Args:
        dim: channels C of the tokens that come in.
        norm_layer: builds the norm from a number of channels.
        out_dim: channels that go out, ``2 * dim`` by default.
    """

    def __init__(self, dim: int, norm_layer: NormLayer, out_dim: int | None = None) -> None:
        super().__init__()
        self.norm = norm_layer(4 * dim)
        self.reduction = nn.Linear(4 * dim, out_dim or 2 * dim, bias=False)

    def forward(self, x: Tensor, height: int, width: int) -> tuple[Tensor, int, int]:
        """Map ``(B, height * width, C)`` to ``(B, H * W, 2 C)``, H and W rounded up."""
        batch, _, channels = x.shape
        x = x.view(batch, height, width, channels)
        x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        before, height, width = (height, width), (height + 1) // 2, (width + 1) // 2
        follow_map(before, (height, width), lambda side: -(-side // 2))
        x = x.view(batch, height, 2, width, 2, channels).permute(0, 1, 3, 4, 2, 5)
        x = x.reshape(batch, height * width, 4 * channels)
        return self.reduction(self.norm(x)), height, width

    def reparameterize(self) -> None:
        """Fold the norm into the reduction, which gains a bias."""
        if not isinstance(self.norm, nn.Identity):
            self.norm = fold_norm_into_linear(self.norm, self.reduction)


class TokenMap(nn.Module):
    """Norm tokens and return them as a map with the channels first."""

    def forward(self, tokens: Tensor, norm: nn.Module, height: int, width: int) -> Tensor:
        """Map ``(B, height * width, C)`` to ``(B, C, height, width)``."""
        tokens = norm(tokens).view(tokens.shape[0], height, width, -1)
        return tokens.permute(0, 3, 1, 2).contiguous()
