"""Backbones by the names that provided configs use, such as slab-swin-t."""

import difflib
import inspect
from collections.abc import Iterator
from typing import Any

import timm
import torch
from mmdet.registry import MODELS

from slab_det.errors import InputError, one_line
from slab_det.mm import backbones
from slab_det.models import cswin, deit, pvt, pvt_v2, swin

#: Family as timm's names of its models have it -> (class of the backbone, its sizes).
FAMILIES = {
    'swin': (backbones.SLABSwinTransformer, swin.ARCHS),
    'pvt': (backbones.SLABPyramidVisionTransformer, pvt.ARCHS),
    'pvt_v2': (backbones.SLABPyramidVisionTransformerV2, pvt_v2.ARCHS),
    'deit': (backbones.SLABVisionTransformer, deit.ARCHS),
    'cswin': (backbones.SLABCSWinTransformer, cswin.ARCHS),
}
#: What a user calls a norm -> its type in a config.
NORMS = {'prepbn': 'PRepBN', 'repbn': 'RepBN', 'ln': 'LN'}


def known_backbones() -> dict[str, dict[str, Any]]:
    """Name -> config of every backbone that has a timm model.

    'slab-FAMILY-SIZE' has linear attention as published; 'FAMILY-SIZE-prepbn' has softmax
    attention in all stages. Names are those of the provided configs.
    """
    return {name: config for name, _, config in _models()}


def backbone_config(name: str, norm: str = 'prepbn', attn: str | None = None) -> dict[str, Any]:
    """Return the config of backbone ``name``.

    Args:
        name: one of :func:`known_backbones`, or timm's name of the same transformer; hyphens,
            underscores and case do not matter.
        norm: a key of :data:`NORMS`.
        attn: letters L and S, as ``attn_types`` of the backbone; by default those of the name.

    Raises:
        InputError: an unknown name, with the nearest one, or ``attn`` that does not fit.
    """
    known = {_bare(spelling): (one[0], one[2]) for one in _models() for spelling in one[:2]}
    if _bare(name) not in known:
        near = difflib.get_close_matches(_bare(name), known, n=1, cutoff=0.0)[0]
        raise InputError(
            f'backbone {name} is not known: the nearest is {known[near][0]} (all: '
            f'{", ".join(known_backbones())})'
        )
    own, config = known[_bare(name)]
    config = {**config, 'norm_cfg': dict(type=NORMS[norm])}
    if attn is not None:
        config['attn_types'] = attn.upper()
        try:
            build(config)
        except ValueError as error:
            raise InputError(f'attn {attn} does not fit {own}: {one_line(error)}') from error
    return config


def build(config: dict[str, Any]) -> backbones.SLABBackbone:
    """Build a backbone, without weights from files."""
    return MODELS.build({**config, 'init_cfg': None})


def maps_of(backbone: backbones.SLABBackbone) -> tuple[tuple[int, int, int], ...]:
    """Return (number of the stage, channels, stride in pixels) of the maps that it returns."""
    return tuple(zip(backbone.out_indices, backbone.out_channels, backbone.strides))


def table_rows() -> list[tuple[str, ...]]:
    """Return (name, type, arch, attn_types, channels, strides) of every known backbone."""
    rows = []
    for name, config in known_backbones().items():
        with torch.device('meta'):
            net = build(config)
        maps = (', '.join(map(str, numbers)) for numbers in (net.out_channels, net.strides))
        rows.append((name, config['type'], config['arch'], config['attn_types'], *maps))
    return rows


def _models() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield name, timm's name and config of every backbone that has a timm model."""
    for family, (kind, archs) in FAMILIES.items():
        linear = inspect.signature(kind).parameters['attn_types'].default
        for arch in archs:
            size = arch if any(map(str.isdigit, arch)) else arch[0]
            for form, attn in (('slab_{}_{}', linear), ('{}_{}_prepbn', 'S' * len(linear))):
                if timm.is_model(model := form.format(family, arch)):
                    name = form.format(family, size).replace('_', '-')
                    yield name, model, dict(type=kind.__name__, arch=arch, attn_types=attn)


def _bare(name: str) -> str:
    return name.lower().replace('-', '').replace('_', '')
