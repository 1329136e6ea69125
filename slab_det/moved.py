"""Where modules went that had another name in version 0.1; the old names keep working.

``import slab_det.hooks`` gives the very module ``slab_det.mm.hooks``, so that a class is the same
object under both names.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

#: Old name to new; what lies below a package moved with it.
MOVED = {
    'slab_det.analysis': 'slab_det.mm.analysis',
    'slab_det.backbones': 'slab_det.mm.backbones',
    'slab_det.checkpoints.conversion': 'slab_det.models.conversion',
    'slab_det.calibration': 'slab_det.statistics.calibration',
    'slab_det.datasets': 'slab_det.mm.datasets',
    'slab_det.hooks': 'slab_det.mm.hooks',
    'slab_det.layers.bands': 'slab_det.deploy.twins.bands',
    'slab_det.layers.chunks': 'slab_det.deploy.twins.chunks',
    'slab_det.layer_norm_fit': 'slab_det.statistics.layer_norm_fit',
    'slab_det.models.features': 'slab_det.models.base',
    'slab_det.necks': 'slab_det.mm.necks',
    'slab_det.visualization': 'slab_det.mm.visualization',
    'slab_det.whole_files': 'slab_det.mm.whole_files',
}


class _Alias(Loader):
    """Imports a module under its new name in place of the old one."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.name)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Keep the module, which is complete; the import system has set its spec to the alias's."""
        module.__spec__ = self.spec


class _MovedModules(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        for old, new in MOVED.items():
            if fullname == old or fullname.startswith(f'{old}.'):
                return ModuleSpec(fullname, _Alias(new + fullname[len(old) :]))
        return None


def install() -> None:
    """Let the old names be imported; called once, when the package is imported."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        # In front: a folder of the old name may have stayed behind with nothing but __pycache__ in
        # it, which Python takes for a namespace package.
        sys.meta_path.insert(0, _MovedModules())
