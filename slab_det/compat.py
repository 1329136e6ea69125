"""What the package needs of Python, torch, timm and mm packages, and how checkpoints are loaded.

The *imported modules* are checked, not the installed distributions: two stacks bring the same
modules under different names, OpenMMLab's and the maintained forks (onedl). Which of them is
installed decides only what a message tells the user to run.
"""

import functools
import importlib
import importlib.util
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .errors import InputError, MissingPackageError, one_line

MM_PACKAGES = ('mmengine', 'mmcv', 'mmdet')

PYTHONS = ((3, 11), (3, 13))
RUNTIME_RANGES = {'torch': '>=2.6', 'timm': '>=1.0.21'}
MMENGINE_RANGE = '>=0.10,<1'
MMDET_RANGE = '>=3.0,<4'
#: (mmdet, the mmcv which it works with), first match counts.
MMCV_RANGES = (('>=3.4', '>=2.3,<2.4'), ('<3.4', '>=2.0.0rc4,<2.2'))
#: From this torch on C++20 is required, which the builds of mmcv do not ask the compiler for.
TORCH_WITHOUT_MMCV = '>=2.14.dev0'

#: The distributions of each stack by the module that they bring, as pinned in requirements/STACK.
STACKS = {
    'openmmlab': {
        'torch': 'torch==2.11.0 torchvision==0.26.0',
        'mmengine': 'mmengine==0.10.7',
        'mmcv': 'mmcv==2.1.0',
        'mmdet': 'mmdet==3.3.0',
        'mim': 'openmim==0.3.9',
    },
    'onedl': {
        'torch': 'torch==2.13.0 torchvision==0.28.0',
        'mmengine': 'onedl-mmengine==0.10.12',
        'mmcv': 'onedl-mmcv==2.3.6',
        'mmdet': 'onedl-mmdetection==3.5.1',
        'mim': 'onedl-mim==0.5.1',
    },
}


def missing_packages() -> list[str]:
    """Return which of mmengine, mmcv and mmdet cannot be found; nothing is imported."""
    return [name for name in MM_PACKAGES if importlib.util.find_spec(name) is None]


def installed_stack() -> str:
    """Return the name in :data:`STACKS` of the stack that most of the mm packages come from."""
    return max(STACKS, key=lambda stack: len(_distributions(stack)))


def require_detection(what: str = 'the detection part of slab_det') -> None:
    """Raise MissingPackageError unless mmengine, mmcv and mmdet are all there and fit."""
    _check_one_stack()
    missing = missing_packages()
    if missing:
        raise MissingPackageError(
            f'{what} needs mmengine, mmcv and mmdet, of which {_and(missing)} cannot be imported'
            f"{_too_new() if 'mmcv' in missing else ''}: run '{_install(*missing)}' "
            '(slab_det.layers and slab_det.models work without)'
        )
    check_versions()
    _check_operators()


def check_runtime() -> None:
    """Check the versions of Python, torch and timm.

    Raises:
        MissingPackageError: naming what is wrong, its version, and what to install.
    """
    first, last = ('.'.join(map(str, python)) for python in PYTHONS)
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        raise MissingPackageError(
            f'slab_det needs Python {first} to {last} but this is Python '
            f'{".".join(map(str, sys.version_info[:3]))}: make an environment with one of them, '
            f"'python{first} -m venv ENV && ENV/bin/python -m pip install slab-det'"
        )
    for name, wanted in RUNTIME_RANGES.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            found = _version(name)
        _check_one(name, found, wanted)


def check_versions() -> None:
    """Check the versions of the imported mmengine, mmcv and mmdet.

    mmengine 0.10 and later, below 1; mmdet 3; mmcv from 2.0.0rc4, below 2.2, with mmdet up to 3.3,
    or 2.3 with mmdet 3.4 and later (the maintained forks).

    Raises:
        MissingPackageError: naming the package that is wrong, its version, and what to install.
    """
    _check_one('mmengine', _version('mmengine'), MMENGINE_RANGE)
    mmcv_version = _version('mmcv')
    try:
        mmdet_version = _version('mmdet')
    except AssertionError as error:  # mmdet 3.3 asserts its own ranges while it is imported
        raise MissingPackageError(
            f'mmdet cannot be imported with the installed mmcv {mmcv_version}: mmdet up to 3.3 '
            f"needs mmcv{MMCV_RANGES[-1][1]}, run '{_install('mmcv')}'"
        ) from error
    _check_one('mmdet', mmdet_version, MMDET_RANGE)
    mmcv_range = next(mmcv for mmdet, mmcv in MMCV_RANGES if _fits(mmdet_version, mmdet))
    _check_one('mmcv', mmcv_version, mmcv_range, f' with mmdet {mmdet_version}')


def report_alone(error: ImportError) -> None:
    """Let ``error``, where nobody catches it, end the process in one sentence without a trace."""
    hook = sys.excepthook

    def excepthook(kind: type[BaseException], value: BaseException, trace: Any) -> None:
        if value is error:
            print(f'error: {error}', file=sys.stderr)
        else:
            hook(kind, value, trace)

    sys.excepthook = excepthook


def _check_one_stack() -> None:
    """Raise MissingPackageError if distributions of both stacks are installed, whose modules
    overwrite each other, or if mmengine lacks what it imports; warn of two that bring mim."""
    found = {stack: _distributions(stack) for stack in STACKS}
    if all(found.values()):
        names = [name for names in found.values() for name in names]
        kept = installed_stack()
        raise MissingPackageError(
            f'{_and(names)} are of two stacks, whose modules have the same names: keep one, {kept} '
            f"by 'pip uninstall -y {' '.join(names)} && {_install(*MM_PACKAGES)}'"
        )
    if found['openmmlab'] and importlib.util.find_spec('pkg_resources') is None:
        raise MissingPackageError(
            'mmengine imports pkg_resources, which setuptools 81 dropped: run '
            '\'pip install "setuptools<81"\''
        )
    mims = [name for stack in STACKS for name in _distributions(stack, ('mim',))]
    if len(mims) > 1:
        warnings.warn(
            f'{_and(mims)} both bring the module mim, and one has overwritten the other: run '
            f"'pip uninstall -y {' '.join(mims)} && {_install('mim')}'",
            stacklevel=2,
        )


def _check_operators() -> None:
    """Raise MissingPackageError if mmcv has no compiled operators, or those of another torch."""
    import torch

    if importlib.util.find_spec('mmcv._ext') is None:
        fault = 'has no operators: it is mmcv-lite, or was built where torch was absent'
    else:
        try:
            importlib.import_module('mmcv._ext')
        except ImportError as error:
            fault = f'was built for another torch than {torch.__version__} ({one_line(error)})'
        else:
            return
    raise MissingPackageError(
        f"mmcv {_version('mmcv')} {fault}{_too_new()}: run '{_install('mmcv', rebuild=True)}'"
    )


def _distributions(stack: str, modules: Sequence[str] = MM_PACKAGES) -> list[str]:
    """Return the installed distributions of ``stack`` that bring ``modules``."""
    names = [_name(STACKS[stack][module]) for module in modules]
    return [name for name in names if _is_installed(name)]


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def _install(*names: str, rebuild: bool = False) -> str:
    """Return the command that installs ``names`` for the installed stack.

    Args:
        rebuild: mmcv is there, and has to be compiled anew.
    """
    stack = STACKS[installed_stack()]
    commands = []
    for name in names:
        if name == 'mmcv':
            pin, options = stack['mmcv'], '--no-build-isolation'
            if rebuild:
                options += f' --no-cache-dir --force-reinstall --no-deps --no-binary={_name(pin)}'
            if _is_installed('mmcv-lite'):
                commands.append('pip uninstall -y mmcv-lite')
            torch = f' {stack["torch"]}' if _torch_is_too_new() else ''
            commands.append(f'pip install "setuptools<81" wheel ninja psutil{torch}')
            commands.append(f'pip install {options} {pin}')
        elif name in stack:
            commands.append(f'pip install {stack[name]}')
        else:
            commands.append(f'pip install "{name}{RUNTIME_RANGES[name]}"')
    return ' && '.join(commands)


def _torch_is_too_new() -> bool:
    return _is_installed('torch') and _fits(version('torch'), TORCH_WITHOUT_MMCV)


def _too_new() -> str:
    """Return what a message adds if mmcv has to be built and cannot be for the installed torch."""
    if not _torch_is_too_new():
        return ''
    return f', and cannot be built for torch {version("torch")}, which requires C++20'


def _name(pin: str) -> str:
    return pin.split('==')[0]


def allow_mmengine_globals() -> None:
    """Let ``torch.load(weights_only=True)`` read the checkpoints that mmengine writes.

    Since torch 2.6, loading refuses every class that is not on a list. mmengine 0.10 stores its log
    buffers (``HistoryBuffer``) and numpy arrays and scalars besides the weights. Exactly those are
    allowed. The buffers refer to their statistics through ``getattr``, which would open every
    attribute of every allowed class to a hostile file; it is answered by a function that knows only
    the statistics of ``HistoryBuffer``.
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


def keep_loading_safe() -> None:
    """Let no checkpoint that mmengine loads run code, and refuse one that would in one sentence.

    Without this mmengine loads what lies behind an ``http(s)://`` address with code (torch's
    ``load_state_dict_from_url`` does by default), and the maintained fork's loader loads every file
    so where safe loading failed. That loader also allows the real ``getattr`` while it reads, and
    afterwards takes what :func:`allow_mmengine_globals` has allowed off torch's list.
    """
    from mmengine.runner import checkpoint as module

    module.load_url = functools.partial(module.load_url, weights_only=True)
    if hasattr(module, '_safe_torch_load'):
        module._safe_torch_load = _load_safely
    load = module.CheckpointLoader.load_checkpoint

    def load_checkpoint(filename: str, *args: Any, **kwargs: Any) -> Any:
        # Again: whoever used torch's ``safe_globals`` with one of them, such as the trainer of
        # transformers, has taken it off the list at the end.
        allow_mmengine_globals()
        try:
            return load(filename, *args, **kwargs)
        except pickle.UnpicklingError as error:
            named = re.search(r'GLOBAL `?[\w.]+|Unsupported \w+ \w+', one_line(error))
            reason = named.group().replace('`', '') if named else one_line(error)[:200]
            raise InputError(
                f'checkpoint {filename!r} cannot be read without running code from it ({reason}): '
                'save its weights alone'
            ) from error

    module.CheckpointLoader.load_checkpoint = staticmethod(load_checkpoint)


def _load_safely(file: Any, map_location: Any = None, weights_only: bool | None = True) -> Any:
    """Stands in for the fork's loader; ``weights_only`` cannot be turned off."""
    import torch

    return torch.load(file, map_location=map_location, weights_only=True)


def _history_statistic(owner: Any, name: str) -> Callable:
    """Stands in for ``getattr`` while a checkpoint is loaded."""
    from mmengine.logging.history_buffer import HistoryBuffer

    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(
        f'the checkpoint asks for the attribute {name!r} of {owner!r}, which is not a statistic of '
        "mmengine's HistoryBuffer"
    )


def _version(name: str) -> str:
    module = importlib.import_module(name)
    found: str | None = getattr(module, '__version__', None)
    if found is None:
        raise MissingPackageError(
            f'the imported module {name} ({getattr(module, "__path__", "no path")}) has no '
            f"__version__ and is not the real package: remove it, then run '{_install(name)}'"
        )
    return found


def _fits(found: str, wanted: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(wanted).contains(found, prereleases=True)


def _check_one(name: str, found: str, wanted: str, context: str = '') -> None:
    if not _fits(found, wanted):
        raise MissingPackageError(
            f'slab_det needs {name}{wanted}{context} but {name} {found} is installed: run '
            f"'{_install(name)}'"
        )


def _and(names: list[str]) -> str:
    return ' and '.join([', '.join(names[:-1]), names[-1]] if len(names) > 1 else names)
