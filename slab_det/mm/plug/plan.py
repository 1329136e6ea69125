"""What a new backbone changes in a detection config."""

from copy import deepcopy
from typing import Any, NamedTuple

import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS as BASE_MODELS

from slab_det.errors import InputError
from slab_det.layers import prepbn_modules
from slab_det.mm.backbones import SLABBackbone
from slab_det.mm.config_walk import is_pretrained, walk

from .backbones import build
from .data import adapt_preprocessor
from .detector import Maps, measure, reason
from .levels import adapt_levels
from .notes import Note, Noting, not_adapted
from .training import adapt_training


class Plan(NamedTuple):
    """A config before and after, as plain dicts, with notes about what is not plain."""

    before: dict[str, Any]
    after: dict[str, Any]
    notes: list[Note]


def make_plan(
    cfg: Config, backbone: dict[str, Any], config: str, init_cfg: dict[str, Any] | None = None
) -> Plan:
    """Return ``cfg`` with its backbone replaced.

    Args:
        cfg: config of a detector, see :func:`~slab_det.mm.plug.detector.load_detector`.
        backbone: config of a backbone of this package.
        config: name of ``cfg`` in errors.
        init_cfg: where the backbone's weights come from; they are loaded to see whether they fit.

    Raises:
        InputError: the detector cannot take the backbone.
        CheckpointError, FileNotFoundError: the weights do not fit, or are not there.
    """
    before = cfg.to_dict()
    after = deepcopy(before)
    notes: list[Note] = []

    def note(*fields: Any, **more: Any) -> None:
        notes.append(Note(*fields, **more))

    old = measure(before['model']['backbone'], config)
    net = build(backbone)
    maps = Maps(net.out_channels, net.strides)
    new = {**backbone, **adapt_levels(after['model'], old, maps, config, note)}
    if init_cfg is not None:
        new.update(_weights(new, init_cfg, note))
    net = build(new)
    after['model']['backbone'] = new
    _forget(before['model']['backbone'], note)
    if any(is_pretrained(node) for _, node in walk(after['model'].get('init_cfg'))):
        after['model']['init_cfg'] = None
        note('model.init_cfg', 'is a checkpoint with the old backbone')
    adapt_preprocessor(after, note)
    adapt_training(after, net, note)
    try:
        with BASE_MODELS.switch_scope_and_registry('mmdet'), torch.random.fork_rng(devices=[]):
            MODELS.build(ConfigDict(deepcopy(after['model'])))
    except Exception as error:  # whatever a module raises about its arguments
        raise InputError(
            f'the {cfg.model.type} of {config} cannot be built with this backbone: {reason(error)}'
            f'{not_adapted(notes)}'
        ) from error
    _import_package(after)
    return Plan(before, after, notes)


def _weights(backbone: dict[str, Any], init_cfg: dict[str, Any], note: Noting) -> dict[str, Any]:
    """Load the weights; return ``init_cfg``, and ``norm_eval`` for a finished PRepBN checkpoint."""
    net: SLABBackbone = MODELS.build({**backbone, 'init_cfg': init_cfg})
    net.init_weights()
    norms = prepbn_modules(net)
    if norms and not any(float(norm.ratio) for norm in norms):
        note(
            'model.backbone.norm_eval',
            'the checkpoint is a finished PRepBN network (ratio 0), whose BatchNorm '
            'statistics stay as they are, as its authors do',
        )
        return dict(init_cfg=init_cfg, norm_eval=True)
    return dict(init_cfg=init_cfg)


def _forget(backbone: dict[str, Any], note: Noting) -> None:
    """Name the habits of the old backbone that do not come along."""
    habits = [
        f'{key}={backbone[key]!r}'
        for key in ('frozen_stages', 'norm_eval', 'dcn', 'plugins', 'with_cp')
        if backbone.get(key) not in (None, False, -1)
    ]
    if habits:
        note(
            'model.backbone',
            f'{", ".join(habits)} of the {backbone["type"]} are not taken over: every stage '
            'trains, and so do its norms',
        )


def _import_package(cfg: dict[str, Any]) -> None:
    imports = cfg.get('custom_imports') or dict(imports=[], allow_failed_imports=False)
    names = imports['imports']
    names = [names] if isinstance(names, str) else list(names)
    cfg['custom_imports'] = {**imports, 'imports': [*names, *({'slab_det'} - set(names))]}
