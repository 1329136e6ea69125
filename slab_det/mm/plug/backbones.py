"""Backbones by the names that provided configs use, such as slab-swin-t."""

import difflib
import inspect
from typing import Any

import timm
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
#: --norm -> norm_cfg.
NORMS = {'prepbn': 'PRepBN', 'repbn': 'RepBN', 'ln': 'LN'}


def known_backbones() -> dict[str, dict[str, Any]]:
    """Name -> config of every backbone that has a timm model.

    'slab-FAMILY-SIZE' has linear attention as published; 'FAMILY-SIZE-prepbn' has softmax
    attention in all stages. Names are those of the provided configs.
    """
    known = {}
    for family, (kind, archs) in FAMILIES.items():
        linear = inspect.signature(kind).parameters['attn_types'].default
        for arch in archs:
            size = arch if any(map(str.isdigit, arch)) else arch[0]
            for model, attn in (
                (f'slab_{family}_{arch}', linear),
                (f'{family}_{arch}_prepbn', 'S' * len(linear)),
            ):
                if timm.is_model(model):
                    name = model.replace(arch, size).replace('_', '-')
                    known[name] = dict(type=kind.__name__, arch=arch, attn_types=attn)
    return known


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
    known = known_backbones()
    spelled = {_bare(key): key for key in known}
    for key, config in known.items():
        spelled[_bare(_timm_name(key, config))] = key
    if _bare(name) not in spelled:
        near = difflib.get_close_matches(_bare(name), spelled, n=1, cutoff=0.0)[0]
        raise InputError(
            f'--backbone {name} is not known: the nearest is {spelled[near]} (all: '
            f'{", ".join(known)})'
        )
    config = {**known[spelled[_bare(name)]], 'norm_cfg': dict(type=NORMS[norm])}
    if attn is not None:
        config['attn_types'] = attn.upper()
        try:
            build(config)
        except ValueError as error:
            raise InputError(
                f'--attn {attn} does not fit {spelled[_bare(name)]}: {one_line(error)}'
            ) from error
    return config


def build(config: dict[str, Any]) -> backbones.SLABBackbone:
    """Build a backbone, without weights from files."""
    return MODELS.build({**config, 'init_cfg': None})


def maps_of(backbone: backbones.SLABBackbone) -> tuple[tuple[int, int, int], ...]:
    """Return (number of the stage, channels, stride in pixels) of the maps that it returns."""
    return tuple(zip(backbone.out_indices, backbone.out_channels, backbone.strides))


def table_rows() -> list[tuple[str, ...]]:
    """Return (name, type, arch, attn_types, channels, strides) of every known backbone.

    Channels come from the sizes of the models alone; a test compares them with built ones.
    """
    rows = []
    for name, config in known_backbones().items():
        arch = next(archs for kind, archs in FAMILIES.values() if kind.__name__ == config['type'])[
            config['arch']
        ]
        if 'embed_dims' in arch:
            channels = arch['embed_dims']
        elif 'depths' in arch:
            channels = [arch['embed_dim'] * 2**i for i in range(len(arch['depths']))]
        else:
            channels = [arch['embed_dim']]
        strides = [16] if len(channels) == 1 else [4 * 2**i for i in range(len(channels))]
        rows.append(
            (
                name,
                config['type'],
                config['arch'],
                config['attn_types'],
                ', '.join(map(str, channels)),
                ', '.join(map(str, strides)),
            )
        )
    return rows


def _timm_name(name: str, config: dict[str, Any]) -> str:
    family = next(key for key, (kind, _) in FAMILIES.items() if kind.__name__ == config['type'])
    arch = config['arch']
    return f'{family}_{arch}_prepbn' if name.endswith('prepbn') else f'slab_{family}_{arch}'


def _bare(name: str) -> str:
    return name.lower().replace('-', '').replace('_', '')
