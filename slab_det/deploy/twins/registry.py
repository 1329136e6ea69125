"""Which class executes which block, and the walks that put twins in place and remove them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import nn

_TWINS: dict[type[nn.Module], type[nn.Module]] = {}


def twin_of(plain: type[nn.Module]) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Let the decorated class, a subclass of ``plain``, be its twin.

    A twin differs in its methods alone: it has no ``__init__`` and no state of its own.
    """

    def register(twin: type[nn.Module]) -> type[nn.Module]:
        _TWINS[plain] = twin
        return twin

    return register


def place_twins(model: nn.Module) -> nn.Module:
    """Put a twin in the place of every module of ``model`` that has one; return ``model``.

    Modules of a subclass that is not registered are left alone, since their forward pass may be
    another one. Placing twins twice changes nothing.
    """
    return _exchange(model, _TWINS)


def remove_twins(model: nn.Module) -> nn.Module:
    """Undo :func:`place_twins`; return ``model``."""
    return _exchange(model, {twin: plain for plain, twin in _TWINS.items()})


@contextmanager
def temporarily(exchange: Callable[[nn.Module], nn.Module], model: nn.Module) -> Iterator[None]:
    """Have ``exchange``, :func:`place_twins` or :func:`remove_twins`, done to ``model`` inside this
    context only."""
    before = [(module, type(module)) for module in model.modules()]
    try:
        exchange(model)
        yield
    finally:
        for module, kind in before:
            module.__class__ = kind


def _exchange(model: nn.Module, classes: Mapping[type[nn.Module], type[nn.Module]]) -> nn.Module:
    """Give every module of a class in ``classes`` the one that it maps to; return ``model``.

    The class is exchanged and not the module: parameters, state dict, hooks, children, references
    and modes cannot differ then, copies and pickles keep the twin, and ``isinstance`` still holds.
    """
    for module in model.modules():
        module.__class__ = classes.get(type(module), type(module))
    return model
