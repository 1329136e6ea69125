"""SLAB vision transformers (arXiv 2405.11582) as MMDetection backbones.

Importing the package registers the backbones, necks, norms, hooks and data sets with mmdet, so that
a config needs only ``custom_imports = dict(imports=['slab_det'])``. Without mmengine, mmcv or mmdet
nothing is registered, but ``slab_det.layers`` and ``slab_det.models`` still work.
"""

from .compat import (
    allow_mmengine_globals,
    check_runtime,
    keep_loading_safe,
    missing_packages,
    report_alone,
    require_detection,
)
from .moved import install
from .version import __version__

try:
    check_runtime()
    if not missing_packages():
        require_detection()
except ImportError as error:
    report_alone(error)
    raise

install()

if not missing_packages():
    allow_mmengine_globals()
    keep_loading_safe()
    from .mm import backbones, datasets, hooks, necks, optim, resume, whole_files  # noqa: F401

__all__ = ['__version__']
