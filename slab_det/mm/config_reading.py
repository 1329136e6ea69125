"""Reading a config file."""

import os
import warnings

from mmengine.config import Config
from mmengine.config.lazy import LazyAttr, LazyObject

from slab_det.errors import InputError, one_line

from .config_walk import walk


def read_config(path: str) -> Config:
    """Return the config at ``path``.

    Raises:
        InputError: it is missing, cannot be parsed or refers to something that is missing.
    """
    if not os.path.isfile(path):
        raise InputError(
            f'config {path} is not a file: give the path of a config, such as '
            'configs/mini/mask-rcnn_slab-swin_mini_shapes.py'
        )
    try:
        with warnings.catch_warnings():
            # mmengine imports it; a user can do nothing about that.
            warnings.filterwarnings('ignore', message='pkg_resources is deprecated')
            cfg = Config.fromfile(path)
            _import_all(cfg._cfg_dict)
            return cfg
    except Exception as error:  # a config is Python code and may raise anything
        raise InputError(
            f'config {path} cannot be read: {type(error).__name__}: {one_line(error)}'
        ) from error


def _import_all(node) -> None:
    """Import what a config in pure Python names, which mmengine puts off until it is used."""
    for _, value in walk(node):
        if isinstance(value, (LazyAttr, LazyObject)):
            value.build()
