"""The config of a re-parameterized detector."""

from typing import Any

from mmengine.config import Config, ConfigDict

from .config_walk import kind_of, rebuild

#: Names of norms that a re-parameterized network no longer has, and hooks that need them.
_FOLDED = ('PRepBN', 'RepBN')
HOOKS = ('PRepBNHook', 'BNCalibrationHook', 'ReparameterizeHook')


def deploy_config(cfg: Config) -> Config:
    """Return the config that builds the re-parameterized detector of ``cfg``.

    Backbones of this package get ``deploy=True`` and lose ``init_cfg``; everywhere else in the
    model ``norm_cfg=dict(type='PRepBN')`` becomes ``dict(type='ChannelAffine')``. Hooks that need
    a PRepBN are left out.
    """
    cfg = Config(cfg.to_dict())
    cfg.model = rebuild(cfg.model, _deploy)
    cfg.custom_hooks = [
        hook for hook in cfg.get('custom_hooks') or [] if kind_of(hook) not in HOOKS
    ]
    cfg.load_from = None
    cfg.resume = False
    return cfg


def _deploy(node: Any) -> Any:
    if isinstance(node, dict) and _is_ours(node.get('type')):
        return ConfigDict({**node, 'deploy': True, 'init_cfg': None})
    if kind_of(node) not in _FOLDED:
        return node
    # Running statistics are gone, so their momentum has no meaning; mmcv passes an eps itself.
    rest = {key: value for key, value in node.items() if key not in ('momentum', 'eps')}
    return ConfigDict({**rest, 'type': 'ChannelAffine'})


def _is_ours(type_: Any) -> bool:
    from mmdet.registry import MODELS

    from .backbones import SLABBackbone

    module = MODELS.get(type_) if isinstance(type_, str) else type_
    return isinstance(module, type) and issubclass(module, SLABBackbone)
