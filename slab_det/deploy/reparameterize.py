"""Re-parameterization: every RepBN and PRepBN folded away."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from slab_det.errors import InputError
from slab_det.layers import (
    ChannelAffine,
    FoldedNorm,
    PRepBN,
    RepBN,
    fold_norm_into_linear,
    set_ratio,
)

from .folding_report import FoldingReport, NormFolding
from .norm_readers import only_readers


class UnfinishedRatioError(InputError):
    """The LayerNorm branch of a PRepBN still counts, so that it cannot be folded.

    Args:
        ratio: the largest one.
        otherwise: how to do without the branch, for the message.
        norm: the name of a norm that has it.
    """

    def __init__(
        self,
        ratio: float,
        otherwise: str = 'pass drop_layer_norm=True to do without it',
        norm: str = '',
    ) -> None:
        place = norm and f', in {norm}'
        super().__init__(
            f'the PRepBN ratio is {ratio:.4g}, not 0{place}: the LayerNorm branch cannot be '
            f'folded; finish the schedule of PRepBNHook or PRepBNScheduler, or {otherwise}.'
        )
        self.ratio = ratio
        self.norm = norm


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
    model: nn.Module,
    inplace: bool = False,
    drop_layer_norm: bool = False,
    example: Tensor | tuple | Mapping[str, Any] | Callable[[nn.Module], Any] | None = None,
    report: FoldingReport | None = None,
) -> nn.Module:
    """Return ``model`` with every :class:`PRepBN` and :class:`RepBN` gone.

    Blocks of this package fold theirs into the linear or convolution layer beside them. In any
    other module a norm whose output one ``nn.Linear`` reads and nothing else folds into that layer,
    if ``example`` shows it. Every other norm becomes one :class:`ChannelAffine`. At inference the
    outputs are the same at any input size, up to rounding; the folding itself is computed in
    float64. Weights keep their type and device.

    Args:
        model: a backbone, a transformer of :mod:`slab_det.models`, a detector, any module.
        inplace: change ``model`` itself instead of a copy.
        drop_layer_norm: set every ratio to 0 first. The outputs change unless it was 0.
        example: what the model is called with at inference, to see who reads its norms: one
            argument, a tuple of arguments, a dict of keyword arguments, or a function that calls
            the model which it is given. A model that takes different ways through its modules
            for different inputs needs a function that calls it with one of each kind. Without an
            example, norms outside this package's blocks become a :class:`ChannelAffine`.
        report: receives what became of each norm and why; print it for a table.

    Returns:
        The re-parameterized model; a model that is so already comes back unchanged.

    Raises:
        UnfinishedRatioError: a ratio is not 0.
        InputError: there is no PRepBN or RepBN.
    """
    if is_reparameterized(model):
        return model
    if not _norms(model):
        raise InputError(
            f'{type(model).__name__} has no PRepBN or RepBN to re-parameterize; train '
            "it with norm_cfg=dict(type='PRepBN'), or give it some with convert_norms."
        )
    if not inplace:
        with _CopiesWithoutGraph():
            model = deepcopy(model)
    if drop_layer_norm:
        set_ratio(model, 0.0)
    ratios = {
        name: float(norm.ratio) for name, norm in _norms(model).items() if isinstance(norm, PRepBN)
    }
    unfinished = max(ratios, key=ratios.__getitem__, default=None)
    if unfinished is not None and ratios[unfinished]:
        raise UnfinishedRatioError(ratios[unfinished], norm=unfinished)
    if isinstance(model, (PRepBN, RepBN)):
        return model.fuse()
    order = list(_norms(model))
    foldings = _fold_in_blocks(model) + _fold_by_example(model, example)
    if report is not None:
        report.norms[:] = sorted(foldings, key=lambda entry: order.index(entry.norm))
    return model


def _norms(model: nn.Module) -> dict[str, nn.Module]:
    """The norms by their names; one of several names under its first."""
    kinds = (PRepBN, RepBN)
    inside = {id(norm.repbn) for norm in model.modules() if isinstance(norm, PRepBN)}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kinds) and id(module) not in inside
    }


def _fold_in_blocks(model: nn.Module) -> list[NormFolding]:
    """Let the blocks that know how fold their norms."""
    foldings = []
    for name, block in list(model.named_modules()):
        norms = _norms(block) if name and hasattr(block, 'reparameterize') else {}
        if not norms:
            continue
        layers = {
            leaf: layer.weight._version
            for leaf, layer in block.named_modules()
            if isinstance(layer, (nn.Linear, nn.Conv2d))
        }
        block.reparameterize()
        changed = tuple(
            f'{name}.{leaf}'
            for leaf, version in layers.items()
            if block.get_submodule(leaf).weight._version != version
        )
        foldings += [
            NormFolding(f'{name}.{leaf}', changed, f'{type(block).__name__} folds its norms')
            for leaf in norms
            if isinstance(block.get_submodule(leaf), FoldedNorm)
        ]
    return foldings


def _fold_by_example(model: nn.Module, example: Any) -> list[NormFolding]:
    """Replace every norm that is left, by nothing where a linear layer takes it in."""
    norms = _norms(model)
    found: dict[str, str] = {}
    reasons = dict.fromkeys(norms, 'no example shows what reads it')
    if example is not None and norms:
        found, reasons = only_readers(model, norms, example)
    new = {
        norm: fold_norm_into_linear(norm, model.get_submodule(found[name]))
        if name in found
        else norm.fuse()
        for name, norm in norms.items()
    }
    for parent in list(model.modules()):
        for leaf, child in parent._modules.items():
            if child in new:
                parent._modules[leaf] = new[child]
    return [
        NormFolding(name, (found[name],), 'nothing else reads it')
        if name in found
        else NormFolding(name, (), reasons[name])
        for name in norms
    ]
