"""SLAB vision transformers (arXiv 2405.11582) as MMDetection backbones.

Importing the package registers the backbones, necks, norms, hooks and data sets with mmdet, so that
a config needs only ``custom_imports = dict(imports=['slab_det'])``. Without mmengine, mmcv or mmdet
nothing is registered, but ``slab_det.layers`` and ``slab_det.models`` still work.
"""

from .compat import allow_mmengine_globals, check_versions, missing_packages
from .moved import install
from .version import __version__

install()

if not missing_packages():
    check_versions()
    allow_mmengine_globals()
    from .mm import backbones, datasets, hooks, necks, optim, resume, whole_files  # noqa: F401

__all__ = ['__version__']
