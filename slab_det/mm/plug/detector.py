"""The detector that a backbone is plugged into: its config, and the maps its backbone returns."""

import difflib
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import MODELS as BASE_MODELS
from mmengine.utils import get_installed_path, is_installed

from slab_det.errors import InputError, one_line
from slab_det.mm.config_reading import read_config
from slab_det.mm.config_walk import walk_dicts

#: Side of the square image by which maps are measured, in pixels: 4 cells at stride 64.
SIDE = 256


class Maps(NamedTuple):
    """What a backbone returns, map by map: channels, and strides in pixels."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]


def find_config(config: str) -> str:
    """Return the file of ``config``, a path or ``PACKAGE::NAME`` as ``_base_`` takes it.

    Raises:
        InputError: there is no such file; with the nearest name in the package's configs.
    """
    if '::' not in config:
        return config
    package, name = config.split('::', 1)
    if not is_installed(package):
        raise InputError(
            f'config {config}: no package {package} is installed; install it or give a path'
        )
    folder = Path(get_installed_path(package)) / '.mim' / 'configs'
    path = folder / name
    if not path.is_file():
        names = [str(file.relative_to(folder)) for file in folder.rglob('*.py')]
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
        hint = ', it has no configs: give a path'
        if near:
            hint = f': the nearest is {package}::{near[0]}'
        raise InputError(f'config {config} is not in {package}{hint}')
    return str(path)


def load_detector(config: str) -> Config:
    """Load a config with a model that has one backbone.

    Raises:
        InputError: it is no such config; the message says what is wrong.
    """
    cfg = _inherited(config) if '::' in config else read_config(config)
    model = cfg.get('model')
    if not isinstance(model, dict) or 'type' not in model:
        raise InputError(f'config {config} has no model: give a whole detection config')
    if not isinstance(model['type'], str):
        raise InputError(
            f"config {config} is written in mmengine's pure Python style, from which a text config "
            'cannot inherit: give the config of the same name in text style, such as mmdet::NAME'
        )
    inner = [path for path, _ in walk_dicts(model, 'model') if path.endswith('backbone')]
    if 'model.backbone' not in inner:
        if inner:
            raise InputError(
                f'config {config} wraps a detector, whose backbone is {inner[0]}: plug the config '
                'of that detector and let this one inherit it'
            )
        raise InputError(
            f'config {config} has no model.backbone, there is nothing to replace: give the config '
            'of a detector'
        )
    inner.remove('model.backbone')
    if inner:
        raise InputError(
            f'config {config} has a second backbone, {inner[0]}, that works together with the '
            'first: it cannot take another one'
        )
    return cfg


def _inherited(config: str) -> Config:
    """Load ``PACKAGE::NAME`` as a config that inherits it sees it: with the scope of the
    package."""
    read_config(find_config(config))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'inherits.py'
        path.write_text(f'_base_ = {config!r}\n', encoding='utf-8')
        return read_config(str(path))


def measure(backbone: dict[str, Any], config: str) -> Maps:
    """Build ``backbone`` without weights and measure its maps on one image of SIDE x SIDE pixels.

    Raises:
        InputError: it cannot be built or run, or returns no maps.
    """
    plain = {key: value for key, value in backbone.items() if key not in ('init_cfg', 'pretrained')}
    try:
        with (
            BASE_MODELS.switch_scope_and_registry('mmdet'),
            torch.random.fork_rng(devices=[]),
            torch.no_grad(),
        ):
            net = MODELS.build(plain)
            net.eval()  # mmdet's ResNet returns nothing here
            outputs = net(torch.zeros(1, 3, SIDE, SIDE))
    except Exception as error:  # whatever a module raises about its arguments
        raise InputError(
            f'the backbone {backbone.get("type")} of {config} cannot be run to see which maps it '
            f'returns: {reason(error)}'
        ) from error
    outputs = [outputs] if torch.is_tensor(outputs) else outputs
    if not isinstance(outputs, (list, tuple)) or not all(
        torch.is_tensor(one) and one.dim() == 4 for one in outputs
    ):
        raise InputError(
            f'the backbone {backbone.get("type")} of {config} does not return one map per scale: '
            'this detector cannot take another backbone'
        )
    return Maps(
        tuple(one.shape[1] for one in outputs), tuple(round(SIDE / one.shape[2]) for one in outputs)
    )


def reason(error: BaseException) -> str:
    """Return class and message of what a module raised, in one line."""
    kind, message = type(error).__name__, one_line(error)
    return kind if message == kind else f'{kind}: {message}'


def base_of(config: str, out: str) -> str:
    """Return what ``_base_`` of a config at ``out`` must say to inherit ``config``."""
    if '::' in config:
        return config
    relative = os.path.relpath(os.path.abspath(config), os.path.dirname(os.path.abspath(out)))
    relative = relative.replace(os.sep, '/')
    return relative if relative.startswith('.') else f'./{relative}'
