"""Weight decay and layer-wise learning rates as the backbone asks for them."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from timm.models._manipulate import group_with_matcher
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from slab_det.layers import ChannelAffine, RepBN

#: Modules whose own parameters ``norm_decay_mult`` is for: mmengine's, and those of this package.
NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, RepBN, ChannelAffine)
#: Options of mmdet's ``LearningRateDecayOptimizerConstructor``, which mmengine would ignore.
_OF_MMDET = ('decay_rate', 'decay_type', 'num_layers')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class SLABOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor, with what transformers say about their own parameters.

    Norms anywhere in the model, and the parameters that a backbone names in
    ``no_weight_decay()`` (positional tables, class tokens), take no weight decay. With
    ``layer_decay_rate`` r a parameter in layer i of a backbone of n layers, as its
    ``group_matcher()`` counts them, has the learning rate ``lr * r ** (n - i)``: the patch
    embedding (i = 0) the smallest. Output norms, neck and heads keep ``lr``.

    Args:
        optim_wrapper_cfg: config of the optimizer wrapper and its optimizer.
        paramwise_cfg: every option of mmengine's ``DefaultOptimWrapperConstructor``, of which
            ``norm_decay_mult`` is 0 by default, and ``layer_decay_rate``, in (0, 1], by default 1.
            An entry of ``custom_keys`` decides on weight decay only if it has ``decay_mult``;
            its learning rate is multiplied with the layer's.

    Raises:
        ValueError: ``layer_decay_rate`` is not in (0, 1], an option belongs to mmdet's
            ``LearningRateDecayOptimizerConstructor``, or ``layer_decay_rate`` is set and no
            module has a ``group_matcher()``.

    In a config::

        optim_wrapper = dict(
            constructor='SLABOptimWrapperConstructor', paramwise_cfg=dict(layer_decay_rate=0.9))

    Source: Clark et al., "ELECTRA", ICLR 2020, section 3.1 (layer-wise decay); layers are counted
    as timm's ``param_groups_layer_decay`` counts them.
    """

    def __init__(
        self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None
    ) -> None:
        # mmengine walks through the parameters only if an option is set.
        super().__init__(optim_wrapper_cfg, {'layer_decay_rate': 1.0, **(paramwise_cfg or {})})

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        foreign = [name for name in _OF_MMDET if name in self.paramwise_cfg]
        rate = self.paramwise_cfg['layer_decay_rate']
        if foreign:
            raise ValueError(
                f'paramwise_cfg has {", ".join(foreign)}, which SLABOptimWrapperConstructor does '
                'not take: set layer_decay_rate alone, layers are counted by the backbone.'
            )
        if not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise ValueError(f'layer_decay_rate must be in (0, 1], but got {rate!r}.')

    def add_params(
        self,
        params: list[dict[str, Any]],
        module: nn.Module,
        prefix: str = '',
        is_dcn_module: int | float | None = None,
    ) -> None:
        """Add the parameters of ``module`` to ``params``, a group for each."""
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:  # mmengine calls this method for every module below
            return
        rate = self.paramwise_cfg['layer_decay_rate']
        norm_decay = self.paramwise_cfg.get('norm_decay_mult', 0.0)
        decay = {
            id(value): norm_decay
            for norm in module.modules()
            if isinstance(norm, NORMS)
            for value in norm.parameters(recurse=False)
        }
        depth: dict[int, int] = {}
        for backbone in transformers(module):
            decay |= {id(backbone.get_parameter(name)): 0.0 for name in backbone.no_weight_decay()}
            depth |= layers_to_the_head(backbone)
        if rate != 1 and not depth:
            raise ValueError(
                f'layer_decay_rate is {rate}, but no backbone of the model has a group_matcher() '
                'that counts its layers: leave layer_decay_rate out.'
            )
        for group in params:
            key = id(group['params'][0])
            if key in decay and 'decay_mult' not in group and self.base_wd is not None:
                group['weight_decay'] = self.base_wd * decay[key]
            if depth.get(key) and rate != 1:
                group['lr'] = group.get('lr', self.base_lr) * rate ** depth[key]


def transformers(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost modules of ``model``, however deep, that have timm's methods
    ``no_weight_decay()`` and ``group_matcher()``."""
    # The class is asked: wrappers such as torch.compile's answer for what they wrap.
    if all(hasattr(type(model), name) for name in ('no_weight_decay', 'group_matcher')):
        yield model
    else:
        for child in model.children():
            yield from transformers(child)


def layers_to_the_head(backbone: nn.Module) -> dict[int, int]:
    """Return how many layers lie from each parameter, by its id, to the first layer behind the
    backbone; 0 for parameters that its ``group_matcher()`` does not know."""
    behind = ('', None)
    layers = group_with_matcher(
        chain(backbone.named_parameters(), [behind]), backbone.group_matcher(), reverse=True
    )
    return {id(value): layers[''] - layers[name] for name, value in backbone.named_parameters()}
