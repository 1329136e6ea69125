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
    _exchange(model, _TWINS)
    return model


def remove_twins(model: nn.Module) -> nn.Module:
    """Undo :func:`place_twins`; return ``model``."""
    _exchange(model, _plain_classes())
    return model


@contextmanager
def with_twins(model: nn.Module) -> Iterator[None]:
    """Have the twins of ``model`` in place inside this context."""
    with _exchanged(model, _TWINS):
        yield


@contextmanager
def without_twins(model: nn.Module) -> Iterator[None]:
    """Have the blocks of ``model`` in place of their twins inside this context."""
    with _exchanged(model, _plain_classes()):
        yield


def _plain_classes() -> dict[type[nn.Module], type[nn.Module]]:
    return {twin: plain for plain, twin in _TWINS.items()}


def _exchange(
    model: nn.Module, classes: Mapping[type[nn.Module], type[nn.Module]]
) -> list[tuple[nn.Module, type[nn.Module]]]:
    """Give modules of a class in ``classes`` the one that it maps to; return them, with their old
    class.

    The class is exchanged and not the module: parameters, state dict, hooks, children, references
    and modes cannot differ then, copies and pickles keep the twin, and ``isinstance`` still holds.
    """
    found = [(module, type(module)) for module in model.modules() if type(module) in classes]
    for module, old in found:
        module.__class__ = classes[old]
    return found


@contextmanager
def _exchanged(
    model: nn.Module, classes: Mapping[type[nn.Module], type[nn.Module]]
) -> Iterator[None]:
    found = _exchange(model, classes)
    try:
        yield
    finally:
        for module, old in found:
            module.__class__ = old
