"""Necks for backbones of one scale, in mmdet's registry."""
from ..compat import require_detection

require_detection('slab_det.necks')

from .simple_fpn import SimpleFPN  # noqa: E402

__all__ = ['SimpleFPN']
