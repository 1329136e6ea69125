"""Which linear layer reads a norm's output, and whether anything else does: shown by a pass."""

import gc
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


class _Sealed(Tensor):
    """A norm's output that notes who opens it.

    It has the shape, type and device of ``content``, which can be asked for freely, and no values:
    whatever computes with it, in Python or below, comes through ``__torch_dispatch__``; what reads
    memory directly fails.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, content: Tensor, readers: set[str | nn.Linear]) -> '_Sealed':
        return Tensor._make_wrapper_subclass(
            cls,
            content.shape,
            strides=content.stride(),
            dtype=content.dtype,
            device=content.device,
        )

    def __init__(self, content: Tensor, readers: set[str | nn.Linear]) -> None:
        self.content, self.readers = content, readers

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        raise BufferError('a sealed tensor has no memory that could be shared')

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        def opened(value: Any) -> Any:
            if not isinstance(value, cls):
                return value
            value.readers.add(func.overloadpacket.__name__)
            return value.content

        return func(*tree_map(opened, args), **tree_map(opened, kwargs or {}))


class _Watch(TorchDispatchMode):
    """Notes the linear layers whose weights are used by anything but their own call."""

    def __init__(self, owners: Mapping[int, nn.Linear]) -> None:
        super().__init__()
        self.owners = owners
        self.running: nn.Linear | None = None
        self.used_elsewhere: set[nn.Linear] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor) and not isinstance(value, _Sealed):
                owner = self.owners.get(_storage(value))
                if owner is not None and owner is not self.running:
                    self.used_elsewhere.add(owner)
        return func(*args, **kwargs)


def only_readers(
    model: nn.Module,
    norms: Mapping[str, nn.Module],
    example: Tensor | tuple | Mapping[str, Any] | Callable[[nn.Module], Any],
) -> tuple[dict[str, str], dict[str, str]]:
    """Find the norms whose output one ``nn.Linear`` reads and nothing else.

    The model runs on ``example`` once, in evaluation mode and without gradients. A norm passes if
    every one of its outputs goes, as it is, into calls of one and the same linear layer; if that
    layer reads nothing else; if neither is returned, kept, reshaped, padded or used in a function;
    and if the layer's weights belong to it alone. What a pass through another branch of the model
    would show stays unknown: the example must take those that deployment takes.

    Args:
        model: any module.
        norms: the norms in question by their names in ``model``.
        example: what the model is called with: one argument, a tuple of arguments, a dict of
            keyword arguments, or a function that calls the model which it is given.

    Returns:
        The names of linear layers by the names of their norms, and why each other norm has none.
    """
    modules = dict(model.named_modules())
    names = {module: name for name, module in modules.items()}
    linears = [module for module in modules.values() if type(module) is nn.Linear]
    shared = _shared_storages(model)
    watch = _Watch({_storage(value): linear for linear in linears for value in linear.parameters()})
    readers: dict[str, set[str | nn.Linear]] = {name: set() for name in norms}
    inputs: dict[nn.Linear, set[str | None]] = defaultdict(set)
    alive: list[tuple[str, weakref.ref]] = []
    owners = {id(seen): name for name, seen in readers.items()}

    def seal(name: str, original: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            out = _Sealed(original(x), readers[name])
            alive.append((name, weakref.ref(out)))
            return out

        return forward

    def before(linear: nn.Linear, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        def opened(value: Any) -> Any:
            if not isinstance(value, _Sealed):
                inputs[linear].add(None)
                return value
            value.readers.add(linear)
            inputs[linear].add(owners[id(value.readers)])
            return value.content

        watch.running = linear
        return tuple(map(opened, args)), {key: opened(value) for key, value in kwargs.items()}

    def after(*_: Any) -> None:
        watch.running = None

    training = {module: module.training for module in modules.values()}
    with ExitStack() as stack:
        for module, mode in training.items():
            stack.callback(setattr, module, 'training', mode)
        model.eval()
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.compiler.set_stance('force_eager'))
        try:
            with ExitStack() as recording:
                for name, norm in norms.items():
                    # Not a hook: hooks of others must see what is sealed.
                    recording.callback(_restore, norm, vars(norm).get('forward'))
                    norm.forward = seal(name, norm.forward)
                for linear in linears:
                    for handle in (
                        linear.register_forward_pre_hook(before, with_kwargs=True),
                        linear.register_forward_hook(after, always_call=True),
                    ):
                        recording.callback(handle.remove)
                with watch:
                    outputs = _call(model, example)
        except Exception as error:
            # Code that reads memory directly cannot read a sealed tensor. If the model does not run
            # without seals either, the example is at fault, and that error is the one to show.
            _call(model, example)
            reason = f'the pass cannot be followed ({type(error).__name__})'
            return {}, dict.fromkeys(norms, reason)
    gc.collect()
    kept = {name for name, output in alive if output() is not None}
    del outputs

    found, reasons = {}, {}
    called = {name for name, _ in alive}
    for name in norms:
        reason = _objection(name, readers[name], inputs, watch, shared, names)
        if name not in called:
            reason = 'it was not called'
        elif name in kept:
            reason = 'the model returns or keeps its output'
        if reason:
            reasons[name] = reason
        else:
            found[name] = names[next(iter(readers[name]))]
    return found, reasons


def _objection(
    name: str,
    readers: set[str | nn.Linear],
    inputs: Mapping[nn.Linear, set[str | None]],
    watch: _Watch,
    shared: set[int],
    names: Mapping[nn.Module, str],
) -> str | None:
    """Why the norm ``name`` does not fold into a linear layer; None if it does."""
    if len(readers) != 1 or isinstance(next(iter(readers)), str):
        told = sorted(reader if isinstance(reader, str) else names[reader] for reader in readers)
        return f'read by {", ".join(told)}' if told else 'nothing reads it'
    (linear,) = readers
    layer = names[linear]
    if inputs[linear] != {name}:
        return f'{layer} reads something else as well'
    if linear in watch.used_elsewhere:
        return f'the weights of {layer} are used outside of it'
    if any(_storage(value) in shared for value in linear.parameters()):
        return f'{layer} shares its weights'
    changed = linear._forward_pre_hooks or 'forward' in vars(linear)
    if changed or linear._parameters.get('weight') is None:
        return f'something changes {layer} before each call'
    return None


def _restore(norm: nn.Module, forward: Callable | None) -> None:
    del norm.forward
    if forward is not None:
        norm.forward = forward


def _call(model: nn.Module, example: Any) -> Any:
    if isinstance(example, Mapping):
        return model(**example)
    if isinstance(example, tuple):
        return model(*example)
    return example(model) if callable(example) else model(example)


def _storage(value: Tensor) -> int:
    # 0 is what tensors without values in memory have in common.
    plain = value.layout is torch.strided and not value.is_meta
    return value.untyped_storage().data_ptr() if plain else 0


def _shared_storages(model: nn.Module) -> set[int]:
    """Storages that two parameters or buffers, or two modules, have in common."""
    seen: set[int] = set()
    shared = set()
    for module in model.modules():
        for value in [*module._parameters.values(), *module._buffers.values()]:
            if value is not None:
                (shared if _storage(value) in seen else seen).add(_storage(value))
    return shared
