"""Parameters and multiply-adds of a network, the products of attention included."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry, sdpa_flop

from slab_det.deploy import remove_twins, temporarily

aten = torch.ops.aten

#: Fused attention that torch's formulas leave out: what a CPU runs, and what other devices bring.
FUSED_ATTENTION = (
    '_scaled_dot_product_flash_attention_for_cpu',
    '_scaled_dot_product_fused_attention_overrideable',
)
#: Operators that multiply activations with activations, by the beginning of their names.
ATTENTION = ('bmm', 'baddbmm', '_scaled_dot_product', '_flash_attention', '_efficient_attention')
#: mmcv's convolutions, which are no operators of torch, by class name; counted like plain ones.
DEFORMABLE_CONVS = ('DeformConv2d', 'ModulatedDeformConv2d')


@dataclass
class Cost:
    """Cost of a network or of a part.

    Attributes:
        parameters: number of parameters, buffers not included.
        multiply_adds: of matrix products and convolutions; a multiplication with its addition
            counts as 1. Norms, activations, softmax, interpolation, sampling and other
            element-wise work do not count.
        attention: the part of ``multiply_adds`` in products of activations with activations:
            softmax attention's ``q k^T`` and its sum of values; linear attention's ``k^T v``,
            ``q (k^T v)`` and ``q . sum(k)``.
    """

    parameters: int = 0
    multiply_adds: int = 0
    attention: int = 0

    def __add__(self, other: 'Cost') -> 'Cost':
        return Cost(
            self.parameters + other.parameters,
            self.multiply_adds + other.multiply_adds,
            self.attention + other.attention,
        )


def count_costs(model: nn.Module, forward: Callable[[], Any]) -> dict[str, Cost]:
    """Count what ``forward()`` costs in each direct child of ``model``.

    Args:
        model: the network; a parameter used in several places counts once.
        forward: runs ``model``, on any device, ``'meta'`` included where its operators allow.

    Returns:
        name of the child -> cost, in the model's order, children that cost nothing left out.
        What belongs to no child is under ``''``.
    """
    costs: dict[str, Cost] = defaultdict(Cost)
    for name, parameter in model.named_parameters():
        costs[_child(name)].parameters += parameter.numel()
    # Twins compute some rows around a band twice.
    with (
        torch.no_grad(),
        _without_fused_layers(),
        temporarily(remove_twins, model),
        _followed(model, costs) as running,
        _Counting(costs, running),
    ):
        forward()
    order = ['', *(name for name, _ in model.named_children())]
    return {name: costs[name] for name in order if costs[name] != Cost()}


class _Counting(TorchDispatchMode):
    """Adds the multiply-adds of every operator to the costs of the child that runs.

    Counted operators return zeros of the right shape instead of doing their work: only shapes
    matter, and this is most of the time that a network takes.
    """

    def __init__(self, costs: dict[str, Cost], running: list[str]) -> None:
        super().__init__()
        self.costs = costs
        self.running = running
        self.formulas = dict(flop_registry)
        for name in FUSED_ATTENTION:
            if hasattr(aten, name):
                self.formulas[getattr(aten, name)] = sdpa_flop

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        operator = func._overloadpacket
        if operator not in self.formulas:
            return func(*args, **kwargs)
        device = next(x.device for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor))
        args, kwargs = tree_map_only(torch.Tensor, lambda x: x.to('meta'), (args, kwargs))
        out = func(*args, **kwargs)
        # torch counts a multiplication and an addition as two operations.
        multiply_adds = self.formulas[operator](*args, **kwargs, out_val=out) // 2
        cost = self.costs[self.running[-1]]
        cost.multiply_adds += multiply_adds
        if operator.__name__.startswith(ATTENTION):
            cost.attention += multiply_adds
        return tree_map_only(torch.Tensor, lambda x: torch.zeros_like(x, device=device), out)


@contextmanager
def _followed(model: nn.Module, costs: dict[str, Cost]) -> Iterator[list[str]]:
    """Keep a stack of the children that are running, ``''`` at its bottom.

    ``forward`` is wrapped, on all modules: a detector calls ``roi_head.forward``, which no hook
    sees, and methods of a child that are not its ``forward``.
    """
    running = ['']

    def follow(child: str, module: nn.Module) -> Callable:
        forward = module.forward
        deformable = any(kind.__name__ in DEFORMABLE_CONVS for kind in type(module).__mro__)

        def followed(*args, **kwargs):
            running.append(child)
            try:
                out = forward(*args, **kwargs)
                if deformable:
                    costs[child].multiply_adds += out.numel() * module.weight[0].numel()
                return out
            finally:
                running.pop()

        return followed

    own = {}
    for name, module in model.named_modules():
        own[module] = module.__dict__.get('forward')
        module.forward = follow(name.split('.')[0], module)
    try:
        yield running
    finally:
        for module, forward in own.items():
            del module.forward
            if forward is not None:
                module.forward = forward


@contextmanager
def _without_fused_layers() -> Iterator[None]:
    """Keep torch from running a whole transformer layer as one operator in evaluation."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _child(parameter: str) -> str:
    return parameter.split('.')[0] if '.' in parameter else ''
