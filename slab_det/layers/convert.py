"""Replacing the norms of a model that is already built."""

import re
from collections.abc import Callable
from typing import Any

from timm.layers import LayerNorm as TimmLayerNorm
from torch import Tensor, nn

from .build import NORMS
from .norm_names import STEP_COUNTERS
from .norms import PRepBN, RepBN

#: Norms that compute what torch's LayerNorm does; a subclass with a forward pass of its own may
#: take another layout.
_LAYER_NORMS = (nn.LayerNorm, TimmLayerNorm)


def convert_norms(
    model: nn.Module,
    from_: str = 'LN',
    to: str = 'PRepBN',
    where: None | str | Callable[[str], bool] = None,
    **kwargs: Any,
) -> int:
    r"""Replace norms of a built model in place; weights and outputs stay as they are.

    ==========  ==========  =====================================================================
    ``from_``   ``to``      what becomes of it
    ==========  ==========  =====================================================================
    ``LN``      ``PRepBN``  ratio 1, the LayerNorm branch takes over the weights
    ``PRepBN``  ``LN``      where the ratio is 1, the LayerNorm branch alone
    ``RepBN``   ``PRepBN``  ratio 0, the RepBN branch is the old norm
    ``PRepBN``  ``RepBN``   where the ratio is 0, the RepBN branch alone
    ``copied``  ``PRepBN``  a copy of the published ``LinearNorm``, with the ratio of its counters
    ==========  ==========  =====================================================================

    New parameters (the branch that was not there) begin as in a new PRepBN. Device, type,
    ``requires_grad`` and training mode are kept. Call it before the optimizer is built, since
    parameters change, and add ``PRepBNHook``, :class:`PRepBNScheduler` or a callback of
    ``slab_det.layers.callbacks`` to the training.

    A copied norm is known by its parts: a LayerNorm ``norm1``, a ``norm2`` with ``bn`` and
    ``alpha``, and the counters ``iter`` and ``total_step``. In evaluation it takes its RepBN branch
    at any ratio, a PRepBN blends as in training; from ratio 0 on both agree.

    The new norms take the channels last, ``(..., C)``, as LayerNorm does: tokens ``(B, N, C)``,
    maps ``(B, H, W, C)`` and queries. Their BatchNorm counts every token it
    sees, padded ones included.

    Args:
        model: any module; a norm used under several names stays one.
        from_, to: names of norms, see the table.
        where: a regular expression searched for in the norm's full name (``'backbone'``,
            ``r'encoder\\.layers\\.\\d+\\.norms'``), or a function of that name that says whether to
            replace it. Default: all.
        **kwargs: constructor arguments of the new norm, such as ``momentum=0.01``.

    Returns:
        How many norms were replaced.

    Raises:
        ValueError: a name is not known or the output would change; nothing matches; or a norm that
            matches cannot be replaced. The model is unchanged then.
        TypeError: the new norm does not take one of the arguments.
    """
    for argument, name, known in (('from_', from_, [*NORMS, 'copied']), ('to', to, NORMS)):
        if name not in known:
            raise ValueError(
                f'{argument}={name!r} is not a norm: use one of {", ".join(map(repr, known))}.'
            )
    if (from_, to) not in _CONVERSIONS:
        pairs = ', '.join(f'{a} to {b}' for a, b in _CONVERSIONS)
        raise ValueError(
            f'from_={from_!r}, to={to!r}: the output would change; what keeps it is '
            f'{pairs} (and slab_det.deploy.reparameterize to ChannelAffine).'
        )
    convert = _CONVERSIONS[from_, to]
    selected = _selector(where)
    parents = dict(model.named_modules(remove_duplicate=False))
    names = [
        name
        for name, module in parents.items()
        if _is(module, from_) and selected(name) and not _inside_norm(name, parents)
    ]
    if not names:
        raise ValueError(
            f'{type(model).__name__} has no {from_}{" norm" * (from_ == "copied")}'
            + ('.' if where is None else f' whose name fits where={where!r}.')
        )
    new: dict[int, nn.Module] = {}
    for name in names:
        old = parents[name]
        _refuse(name, old, parents)
        if id(old) not in new:
            new[id(old)] = _like(old, model, convert(old, name, kwargs))
    for name in names:
        parent, _, leaf = name.rpartition('.')
        setattr(parents[parent], leaf, new[id(parents[name])])
    return len(new)


def _selector(where: None | str | Callable[[str], bool]) -> Callable[[str], bool]:
    if where is None:
        return lambda name: True
    if callable(where):
        return where
    try:
        pattern = re.compile(where)
    except (re.error, TypeError) as error:
        raise ValueError(
            f'where={where!r} is neither a regular expression ({error}) nor a function.'
        ) from error
    return lambda name: pattern.search(name) is not None


def _is(module: nn.Module, kind: str) -> bool:
    """Whether ``module`` is a norm of the name ``kind``."""
    if kind != 'copied':
        return isinstance(module, NORMS[kind])
    counters = all(isinstance(getattr(module, name, None), Tensor) for name in STEP_COUNTERS[:2])
    branch = getattr(module, 'norm2', None)
    return (
        counters
        and isinstance(getattr(module, 'norm1', None), nn.LayerNorm)
        and isinstance(getattr(branch, 'bn', None), nn.BatchNorm1d)
        and hasattr(branch, 'alpha')
    )


def _inside_norm(name: str, modules: dict[str, nn.Module]) -> bool:
    """Whether this is a branch of a PRepBN or of a copy of it."""
    parent = modules[name.rpartition('.')[0]]
    return bool(name) and (isinstance(parent, (PRepBN, RepBN)) or _is(parent, 'copied'))


def _refuse(name: str, norm: nn.Module, modules: dict[str, nn.Module]) -> None:
    kind = type(norm).__name__
    if not name:
        raise ValueError(f'model is itself a {kind}: give the module that holds it.')
    parent = modules[name.rpartition('.')[0]]
    if isinstance(parent, nn.TransformerEncoderLayer):
        raise ValueError(
            f'{name} belongs to torch.nn.{type(parent).__name__}, which reads the '
            "LayerNorm's own weights in evaluation: leave it out with where=...."
        )
    if isinstance(norm, nn.LayerNorm):
        if type(norm).forward not in [one.forward for one in _LAYER_NORMS]:
            raise ValueError(
                f'{name} is a {kind}, which may normalise another dimension than the '
                'last one: leave it out with where=....'
            )
        if len(norm.normalized_shape) != 1:
            raise ValueError(
                f'{name} normalises the dimensions {tuple(norm.normalized_shape)}, '
                'PRepBN one: leave it out with where=....'
            )


def _like(old: nn.Module, model: nn.Module, new: nn.Module) -> nn.Module:
    """``new`` on the device, in the type and in the mode of ``old``, a norm of ``model``."""
    own = list(old.parameters())
    if own:
        new.requires_grad_(any(value.requires_grad for value in own))
    for like in own or model.parameters():
        new.to(device=like.device, dtype=like.dtype)
        break
    return new.train(old.training)


def _layer_norm_to_prepbn(old: nn.LayerNorm, name: str, kwargs: dict[str, Any]) -> PRepBN:
    new = PRepBN(old.normalized_shape[0], **{'eps': old.eps, **kwargs})
    # One without weights or without a bias multiplies by 1 and adds 0.
    new.ln.load_state_dict({**new.ln.state_dict(), **old.state_dict()})
    return new


def _copy_to_prepbn(old: nn.Module, name: str, kwargs: dict[str, Any]) -> PRepBN:
    bn = old.norm2.bn
    settings = {'eps': old.norm1.eps, 'momentum': bn.momentum, **kwargs}
    new = PRepBN(bn.num_features, **settings)
    new.repbn.bn.eps = bn.eps
    new.load_state_dict(old.state_dict())
    # The factor of the copy's counters is not in its state; while it warms up it is LayerNorm.
    if not int(getattr(old, 'warm', 0)):
        new.set_ratio(float(new.ratio) * float(getattr(old, 'r0', 1)))
    return new


def _prepbn_to_layer_norm(old: PRepBN, name: str, kwargs: dict[str, Any]) -> nn.LayerNorm:
    _require_ratio(old, name, 1.0)
    new = nn.LayerNorm(old.num_features, **{'eps': old.ln.eps, **kwargs})
    new.load_state_dict(old.ln.state_dict())
    return new


def _repbn_to_prepbn(old: RepBN, name: str, kwargs: dict[str, Any]) -> PRepBN:
    new = PRepBN(old.num_features, **{'momentum': old.bn.momentum, **kwargs})
    new.repbn.bn.eps = old.bn.eps
    new.repbn.load_state_dict(old.state_dict())
    new.set_ratio(0.0)
    return new


def _prepbn_to_repbn(old: PRepBN, name: str, kwargs: dict[str, Any]) -> RepBN:
    _require_ratio(old, name, 0.0)
    new = RepBN(
        old.num_features, **{'eps': old.repbn.bn.eps, 'momentum': old.repbn.bn.momentum, **kwargs}
    )
    new.load_state_dict(old.repbn.state_dict())
    return new


def _require_ratio(norm: PRepBN, name: str, ratio: float) -> None:
    if float(norm.ratio) != ratio:
        raise ValueError(
            f'{name}: the ratio is {float(norm.ratio):.4g}, not {ratio:g}, so that '
            'its output would change.'
        )


_CONVERSIONS: dict[tuple, Callable[[nn.Module | None, str, dict[str, Any]], nn.Module]] = {
    ('LN', 'PRepBN'): _layer_norm_to_prepbn,
    ('copied', 'PRepBN'): _copy_to_prepbn,
    ('PRepBN', 'LN'): _prepbn_to_layer_norm,
    ('RepBN', 'PRepBN'): _repbn_to_prepbn,
    ('PRepBN', 'RepBN'): _prepbn_to_repbn,
}
