"""Re-parameterization: every RepBN and PRepBN folded away."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from timm.utils import reparameterize_model
from torch import nn
from torch.overrides import TorchFunctionMode

from slab_det.errors import InputError
from slab_det.layers import ChannelAffine, FoldedNorm, PRepBN, RepBN, prepbn_modules, set_ratio


class UnfinishedRatioError(InputError):
    """The LayerNorm branch of a PRepBN still counts, so that it cannot be folded.

    Args:
        ratio: the largest one.
        otherwise: how to do without the branch, for the message.
    """

    def __init__(
        self, ratio: float, otherwise: str = 'pass drop_layer_norm=True to do without it'
    ) -> None:
        super().__init__(
            f'the PRepBN ratio is {ratio:.4g}, not 0: the LayerNorm branch cannot be folded; '
            f'finish the schedule of PRepBNHook, or {otherwise}.'
        )
        self.ratio = ratio


def is_reparameterized(model: nn.Module) -> bool:
    """Whether norms of ``model`` have been folded or replaced, and none is left to be."""
    kinds = [type(module) for module in model.modules()]
    done = any(issubclass(kind, (FoldedNorm, ChannelAffine)) for kind in kinds)
    return done and not any(issubclass(kind, (PRepBN, RepBN)) for kind in kinds)


class _CopiesWithoutGraph(TorchFunctionMode):
    """Under it a deep copy takes the values of tensors that a graph computed.

    Heads of mmdet such as CondInst's keep some of their last training step, which torch refuses
    to copy.
    """

    def __torch_function__(
        self,
        func: Callable,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            return memo.setdefault(id(tensor), tensor.detach().clone())
        return func(*args, **(kwargs or {}))


def reparameterize(
    model: nn.Module, inplace: bool = False, drop_layer_norm: bool = False
) -> nn.Module:
    """Return ``model`` with every :class:`PRepBN` and :class:`RepBN` gone.

    Blocks of this package fold theirs into the linear or convolution layer beside them. Every
    other one, in output norms, closing norms and modules this package does not know, becomes
    one :class:`ChannelAffine`. At inference the outputs are the same at any input size, up to
    rounding; the folding itself is computed in float64. Weights keep their type and device.

    Args:
        model: a backbone, a transformer of :mod:`slab_det.models`, a detector, any module.
        inplace: change ``model`` itself instead of a copy.
        drop_layer_norm: set every ratio to 0 first. The outputs change unless it was 0.

    Returns:
        The re-parameterized model; a model that is so already comes back unchanged.

    Raises:
        UnfinishedRatioError: a ratio is not 0.
        InputError: there is no PRepBN or RepBN.
    """
    if is_reparameterized(model):
        return model
    if not any(isinstance(module, (PRepBN, RepBN)) for module in model.modules()):
        raise InputError(
            f'{type(model).__name__} has no PRepBN or RepBN to re-parameterize; train '
            "it with norm_cfg=dict(type='PRepBN')."
        )
    if not inplace:
        with _CopiesWithoutGraph():
            model = deepcopy(model)
    if drop_layer_norm:
        set_ratio(model, 0.0)
    ratio = max((float(norm.ratio) for norm in prepbn_modules(model)), default=0.0)
    if ratio:
        raise UnfinishedRatioError(ratio)
    if isinstance(model, (PRepBN, RepBN)):
        return model.fuse()
    return reparameterize_model(model, inplace=True)
