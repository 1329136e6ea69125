"""Building a norm from its name."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from .norms import ChannelAffine, PRepBN, RepBN

#: Norms by the names used in configs.
NORMS = {'PRepBN': PRepBN, 'RepBN': RepBN, 'LN': nn.LayerNorm, 'ChannelAffine': ChannelAffine}


def make_norm_layer(norm: str | Mapping[str, Any], **defaults: Any) -> Callable[[int], nn.Module]:
    """Return a function that builds the norm ``norm`` for a number of channels.

    Args:
        norm: a name of :data:`NORMS`, or a config such as ``dict(type='PRepBN', eps=1e-6,
            requires_grad=False)`` whose other entries go to the norm's constructor.
            ``requires_grad`` is set on the norm's parameters, as mmcv does.
        **defaults: constructor arguments that the config does not give.

    Raises:
        ValueError: the norm is not known.
        TypeError: the norm does not take one of the arguments.
    """
    cfg = {'type': norm} if isinstance(norm, str) else dict(norm)
    if cfg.get('type') not in NORMS:
        raise ValueError(
            f'norm type must be one of {", ".join(map(repr, NORMS))}, but got {cfg.get("type")!r}.'
        )
    norm_type = cfg.pop('type')
    requires_grad = cfg.pop('requires_grad', True)
    kwargs = {**defaults, **cfg}

    def build(num_features: int) -> nn.Module:
        try:
            module = NORMS[norm_type](num_features, **kwargs)
        except TypeError as error:
            raise TypeError(f'norm {norm_type!r} cannot be built from {kwargs}: {error}') from None
        return module.requires_grad_(requires_grad)

    return build


def layer_norm_eps(norm: str | Mapping[str, Any], eps: float = 1e-6) -> dict[str, float]:
    """Return ``eps`` as a default of :func:`make_norm_layer` for norms with a LayerNorm; RepBN,
    whose epsilon is BatchNorm's, gets none."""
    norm_type = norm if isinstance(norm, str) else norm.get('type')
    return {'eps': eps} if norm_type in ('PRepBN', 'LN') else {}
