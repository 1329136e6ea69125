"""Folding a norm into the linear or convolution layer beside it."""

import torch
from torch import Tensor, nn

from .norms import foldable_affine


class FoldedNorm(nn.Identity):
    """Stands where a norm was that another layer has taken in."""


@torch.no_grad()
def fold_norm_into_linear(norm: nn.Module, linear: nn.Linear) -> FoldedNorm:
    """Make ``linear`` compute ``linear(norm(x))``; return what takes the norm's place.

    With ``norm(x) = a * x + c``: ``W (a * x + c) + b = (W * a) x + (W c + b)``. A layer without
    a bias gains one. The products are taken in float64.
    """
    a, c = foldable_affine(norm)
    weight = linear.weight.double()
    bias = weight @ c if linear.bias is None else weight @ c + linear.bias.double()
    _assign(linear, weight * a, bias)
    return FoldedNorm()


@torch.no_grad()
def fold_norm_into_conv(norm: nn.Module, conv: nn.Conv2d) -> FoldedNorm:
    """Make ``conv`` compute ``conv(norm(x))``, norm per input channel; see
    :func:`fold_norm_into_linear`.

    Raises:
        ValueError: the convolution pads, or has groups. Padding a normed map with zeros cannot be
            expressed as padding of the map itself.
    """
    if any(conv.padding) or conv.groups != 1:
        raise ValueError(
            f'a norm folds only into a convolution without padding and groups, but got '
            f'padding={conv.padding} and groups={conv.groups}.'
        )
    a, c = foldable_affine(norm)
    weight = conv.weight.double()
    bias = weight.sum((2, 3)) @ c
    _assign(
        conv, weight * a.view(1, -1, 1, 1), bias if conv.bias is None else bias + conv.bias.double()
    )
    return FoldedNorm()


@torch.no_grad()
def fold_norm_after_conv(conv: nn.Conv2d, norm: nn.Module) -> FoldedNorm:
    """Make ``conv`` compute ``norm(conv(x))`` per output channel; see
    :func:`fold_norm_into_linear`."""
    a, c = foldable_affine(norm)
    bias = c if conv.bias is None else a * conv.bias.double() + c
    _assign(conv, conv.weight.double() * a.view(-1, 1, 1, 1), bias)
    return FoldedNorm()


def _assign(layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
    layer.weight.copy_(weight)
    if layer.bias is None:
        layer.bias = nn.Parameter(layer.weight.new_empty(len(layer.weight)))
    layer.bias.copy_(bias)
