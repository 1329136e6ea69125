"""What the package needs of mmengine, mmcv and mmdet, and how torch may load their checkpoints.

The *imported modules* are checked, not the installed distributions: maintained forks bring the same
modules under other distribution names.
"""

import importlib
import importlib.util
import pickle
from collections.abc import Callable
from typing import Any

from .errors import MissingPackageError

MM_PACKAGES = ('mmengine', 'mmcv', 'mmdet')

MMENGINE_RANGE = '>=0.10,<1'
MMDET_RANGE = '>=3.0,<4'
#: (mmdet, the mmcv which it works with), first match counts.
MMCV_RANGES = (('>=3.4', '>=2.3,<2.4'), ('<3.4', '>=2.0.0rc4,<2.2'))

_INSTALL = {
    'mmengine': 'pip install mmengine==0.10.7',
    'mmcv': 'pip install --no-build-isolation mmcv==2.1.0',
    'mmdet': 'pip install mmdet==3.3.0',
}


def missing_packages() -> list[str]:
    """Which of mmengine, mmcv and mmdet cannot be found; nothing is imported."""
    return [name for name in MM_PACKAGES if importlib.util.find_spec(name) is None]


def require_detection(what: str = 'the detection part of slab_det') -> None:
    """Raise MissingPackageError in one sentence unless mmengine, mmcv and mmdet are all there and fit."""
    missing = missing_packages()
    if missing:
        raise MissingPackageError(
            f'{what} needs mmengine, mmcv and mmdet, of which {_and(missing)} cannot be imported: run '
            + ' && '.join(f"'{_INSTALL[name]}'" for name in missing)
            + ' (slab_det.layers and slab_det.models work without)'
        )
    check_versions()


def check_versions() -> None:
    """Checks the versions of the imported mmengine, mmcv and mmdet.

    mmengine 0.10 and later, below 1; mmdet 3; mmcv from 2.0.0rc4, below 2.2, with mmdet up to 3.3, or
    2.3 with mmdet 3.4 and later (the maintained forks).

    Raises:
        MissingPackageError: naming the package that is wrong, its version, and what to install.
    """
    _check_one('mmengine', _version('mmengine'), MMENGINE_RANGE)
    mmcv_version = _version('mmcv')
    try:
        mmdet_version = _version('mmdet')
    except AssertionError as error:  # mmdet 3.3 asserts its own ranges while it is imported
        raise MissingPackageError(
            f'mmdet cannot be imported with the installed mmcv {mmcv_version}: mmdet up to 3.3 needs '
            f"mmcv{MMCV_RANGES[-1][1]}, run '{_INSTALL['mmcv']}'"
        ) from error
    _check_one('mmdet', mmdet_version, MMDET_RANGE)
    mmcv_range = next(mmcv for mmdet, mmcv in MMCV_RANGES if _fits(mmdet_version, mmdet))
    _check_one('mmcv', mmcv_version, mmcv_range, f' with mmdet {mmdet_version}')


def allow_mmengine_globals() -> None:
    """Lets ``torch.load(weights_only=True)`` read the checkpoints that mmengine writes.

    From torch 2.6 on, loading refuses every class that is not on a list. mmengine 0.10 stores its log
    buffers (``HistoryBuffer``) and numpy arrays and scalars besides the weights. Exactly those are
    allowed. The buffers refer to their statistics through ``getattr``, which would open every attribute
    of every allowed class to a hostile file; it is answered by a function that knows only the
    statistics of ``HistoryBuffer``.
    """
    import numpy as np
    import torch
    from mmengine.logging.history_buffer import HistoryBuffer

    rebuild_array, rebuild_scalar = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
    allowed: list[Any] = [
        HistoryBuffer,
        np.ndarray,
        np.dtype,
        (_history_statistic, 'builtins.getattr'),
    ]
    for module in (
        'numpy.core.multiarray',
        'numpy._core.multiarray',
    ):  # as numpy 1 and numpy 2 write it
        allowed += [(rebuild_array, f'{module}._reconstruct'), (rebuild_scalar, f'{module}.scalar')]
    # torch compares the class of the dtype that it restores, one for each kind of number.
    allowed += sorted({type(np.dtype(code)) for code in '?bBhHiIlLqQefdgFD'}, key=str)
    torch.serialization.add_safe_globals(allowed)


def _history_statistic(owner: Any, name: str) -> Callable:
    """Stands in for ``getattr`` while a checkpoint is loaded."""
    from mmengine.logging.history_buffer import HistoryBuffer

    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(
        f'the checkpoint asks for the attribute {name!r} of {owner!r}, which is no statistic of '
        "mmengine's HistoryBuffer"
    )


def _version(name: str) -> str:
    module = importlib.import_module(name)
    version: str | None = getattr(module, '__version__', None)
    if version is None:
        raise MissingPackageError(
            f'the imported module {name} ({getattr(module, "__path__", "no path")}) has no __version__ '
            f"and is not the real package: remove it, then run '{_INSTALL[name]}'"
        )
    return version


def _fits(version: str, wanted: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(wanted).contains(version, prereleases=True)


def _check_one(name: str, version: str, wanted: str, context: str = '') -> None:
    if not _fits(version, wanted):
        raise MissingPackageError(
            f'slab_det needs {name}{wanted}{context} but {name} {version} is installed: run '
            f"'{_INSTALL[name]}', or the release of your fork in that range"
        )


def _and(names: list[str]) -> str:
    return ' and '.join([', '.join(names[:-1]), names[-1]] if len(names) > 1 else names)
