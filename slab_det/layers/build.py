"""Building a norm from its name."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from .norms import ChannelAffine, PRepBN, RepBN

#: Norms by the names used in configs.
NORMS = {'PRepBN': PRepBN, 'RepBN': RepBN, 'LN': nn.LayerNorm, 'ChannelAffine': ChannelAffine}


#: A norm by name, as a config, or as a function of the number of channels, such as a class.
Norm = str | Mapping[str, Any] | Callable[[int], nn.Module]


def make_norm_layer(norm: Norm, **defaults: Any) -> Callable[[int], nn.Module]:
    """Return a function that builds the norm ``norm`` for a number of channels.

    Args:
        norm: a name of :data:`NORMS`; a config such as ``dict(type='PRepBN', eps=1e-6,
            requires_grad=False)`` whose other entries go to the norm's constructor, its type a name
            or a class; or a class or function that takes the number of channels, such as
            ``nn.LayerNorm`` or ``partial(nn.LayerNorm, eps=1e-6)``. ``requires_grad`` is set on the
            norm's parameters, as mmcv does.
        **defaults: constructor arguments of a norm of :data:`NORMS` that the config does not give.

    Raises:
        ValueError: the norm is not known.
        TypeError: the norm does not take one of the arguments.
    """
    kwargs = _config(norm)
    norm_type = kwargs.pop('type')
    if not callable(norm_type):
        raise ValueError(
            f'norm type must be one of {", ".join(map(repr, NORMS))} or a callable, '
            f'but got {norm_type!r}.'
        )
    name = next((name for name, known in NORMS.items() if known is norm_type), norm_type)
    requires_grad = kwargs.pop('requires_grad', True)
    if norm_type in NORMS.values():
        kwargs = {**defaults, **kwargs}

    def build(num_features: int) -> nn.Module:
        try:
            module = norm_type(num_features, **kwargs)
        except TypeError as error:
            raise TypeError(f'norm {name!r} cannot be built from {kwargs}: {error}') from None
        return module.requires_grad_(requires_grad)

    return build


def layer_norm_eps(norm: Norm, eps: float = 1e-6) -> dict[str, float]:
    """Return ``eps`` as a default of :func:`make_norm_layer` for norms with a LayerNorm; RepBN,
    whose epsilon is BatchNorm's, gets none."""
    return {'eps': eps} if _config(norm)['type'] in (PRepBN, nn.LayerNorm) else {}


def _config(norm: Norm) -> dict[str, Any]:
    """Return ``norm`` as a config whose type is a callable, if it is known."""
    config = {'type': None, **norm} if isinstance(norm, Mapping) else {'type': norm}
    if isinstance(config['type'], str):
        config['type'] = NORMS.get(config['type'], config['type'])
    return config
