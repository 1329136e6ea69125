"""Parameters and multiply-adds of a network, the products of attention included."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count

from slab_det.deploy import remove_twins, temporarily

aten = torch.ops.aten

#: Fused attention for which torch has no formula: what a CPU runs, and what other devices bring.
FUSED_ATTENTION = (
    '_scaled_dot_product_flash_attention_for_cpu',
    '_scaled_dot_product_fused_attention_overrideable',
)
#: Operators that multiply activations with activations, by the beginning of their names.
ATTENTION = ('bmm', 'baddbmm', '_scaled_dot_product', '_flash_attention', '_efficient_attention')
#: mmcv's convolutions, by class name: they are not operators of torch, so its counter misses them.
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
    """Count what ``forward()`` costs in each direct child of ``model``, by torch's FlopCounterMode.

    Args:
        model: the network; a parameter used in several places counts once.
        forward: runs ``model``, on any device, ``'meta'`` included if its operators allow that.

    Returns:
        name of the child -> cost, in the model's order, children that cost nothing left out.
        What belongs to no child is under ``''``.
    """
    costs: dict[str, Cost] = defaultdict(Cost)
    for name, parameter in model.named_parameters():
        costs[name.split('.')[0] if '.' in name else ''].parameters += parameter.numel()
    formulas = {
        getattr(aten, name): _fused_attention for name in FUSED_ATTENTION if hasattr(aten, name)
    }
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    shapes_only = _ShapesOnly({*flop_registry, *formulas})
    counter.mod_tracker = _NoModules()
    following = _followed(model, costs, counter)
    # Twins compute some rows around a band twice.
    plain = temporarily(remove_twins, model)
    with torch.no_grad(), _without_fused_layers(), plain, shapes_only, counter, following:
        forward()
    order = ['', *(name for name, _ in model.named_children())]
    return {name: costs[name] for name in order if costs[name] != Cost()}


class _NoModules(nullcontext):
    """In place of the counter's sums per module: their hooks miss a ``roi_head.forward`` that a
    detector calls, and fail at views of a parameter, as in Deformable DETR."""

    parents = frozenset({'Global'})


def _fused_attention(query, key, value, *args, **kwargs) -> int:
    return sdpa_flop_count(query, key, value)


class _ShapesOnly(TorchDispatchMode):
    """Lets ``operators`` return zeros of the right shape instead of doing their work.

    Only shapes matter to the counter, and this work is most of the time that a network takes.
    """

    def __init__(self, operators: set) -> None:
        super().__init__()
        self.operators = operators

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func._overloadpacket not in self.operators:
            return func(*args, **kwargs)
        device = next(x.device for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor))
        args, kwargs = tree_map_only(torch.Tensor, lambda x: x.to('meta'), (args, kwargs))
        return tree_map_only(
            torch.Tensor, lambda x: torch.zeros_like(x, device=device), func(*args, **kwargs)
        )


@contextmanager
def _followed(model: nn.Module, costs: dict[str, Cost], counter: FlopCounterMode) -> Iterator[None]:
    """Add what ``counter`` counts to the costs of the child of ``model`` that runs.

    ``forward`` is wrapped, on all modules: no hook sees the ``roi_head.forward`` of a detector.
    """
    running = ['']
    settled: Counter = Counter()

    def settle() -> None:
        """Give what was counted since the last call to the child that ran meanwhile."""
        counted = Counter(counter.flop_counts['Global'])
        for operator, number in (counted - settled).items():
            # torch counts a multiplication and an addition as two operations.
            costs[running[-1]].multiply_adds += number // 2
            if operator.__name__.startswith(ATTENTION):
                costs[running[-1]].attention += number // 2
        settled.update(counted - settled)

    def follow(child: str, module: nn.Module) -> Callable:
        forward = module.forward
        deformable = any(kind.__name__ in DEFORMABLE_CONVS for kind in type(module).__mro__)

        def followed(*args, **kwargs):
            settle()
            running.append(child)
            try:
                out = forward(*args, **kwargs)
                if deformable:
                    costs[child].multiply_adds += out.numel() * module.weight[0].numel()
                return out
            finally:
                settle()
                running.pop()

        return followed

    own = {}
    for name, module in model.named_modules():
        own[module] = module.__dict__.get('forward')
        module.forward = follow(name.split('.')[0], module)
    try:
        yield
        settle()
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
