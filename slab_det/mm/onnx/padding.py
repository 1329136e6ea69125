"""Padding of mmdet's patch embeddings that follows the image in a traced graph."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from mmdet.models.layers.transformer.utils import AdaptivePadding
from torch import Tensor, nn


@contextmanager
def traceable_padding(model: nn.Module) -> Iterator[None]:
    """Let the ``AdaptivePadding`` of mmdet's patch embeddings and mergings follow the image's size.

    It rounds sizes up in Python, which makes constants of them in a traced graph: one that pads or
    crops every image to the size that it was traced with.
    """
    found = [module for module in model.modules() if isinstance(module, AdaptivePadding)]
    for module in found:
        module.forward = partial(_pad_adaptively, module)
    try:
        yield
    finally:
        for module in found:
            del module.forward


def _pad_adaptively(module: nn.Module, x: Tensor) -> Tensor:
    """Return what ``module``, an mmdet ``AdaptivePadding``, makes of ``x: (N, C, H, W)``."""
    kinds = zip(x.shape[-2:], module.kernel_size, module.stride, module.dilation)
    (top, bottom), (left, right) = (_adaptive_padding(module.padding, *kind) for kind in kinds)
    return F.pad(x, (left, right, top, bottom))


def _adaptive_padding(
    mode: str, size, kernel: int, stride: int, dilation: int
) -> tuple[Tensor, Tensor]:
    """Return what is added to a side of ``size`` so that kernels at every ``stride`` cover it: all
    of it behind if ``mode`` is 'corner', half of it in front if it is 'same'."""
    size = torch.as_tensor(size)
    missing = ((size - 1) // stride * stride + (kernel - 1) * dilation + 1 - size).clamp(min=0)
    before = missing // 2 if mode == 'same' else torch.zeros_like(missing)
    return before, missing - before
