"""Reading a checkpoint file without running code from it."""

import os
import pickle
import pickletools
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from slab_det.compat import unsafe_message, unsafe_part
from slab_det.errors import one_line

from .family import CheckpointError

#: Keys under which training scripts nest the weights.
NESTS = ('state_dict', 'model', 'state_dict_ema', 'model_ema')


#: What torch raises where a file is damaged or no checkpoint.
_READ_ERRORS = (
    RuntimeError,
    ValueError,
    EOFError,
    KeyError,
    OSError,
    AttributeError,
    IndexError,
    TypeError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


class _Inert:
    """Stands for an object of a class that is not loaded, such as a training script's options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """The arguments of the object are dropped with the object."""

    def __setstate__(self, state: Any) -> None:
        """So is its state."""


class _InertDict:
    """Stands for an object whose class extends dict, such as a yacs config. torch fills nothing
    but its own choice of dicts, so it becomes one of them."""

    def __new__(cls, *args: Any, **kwargs: Any) -> OrderedDict:
        return OrderedDict()


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read the checkpoint file ``path`` on the CPU, in torch's present or former format.

    Only tensors and plain containers are built. Objects of other classes, such as the argparse
    namespace or yacs config in published files, become empty stand-ins; none of their code
    runs. A file that names a function of the standard library is refused.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is truncated, no checkpoint, or cannot be read without running
            code from it.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f'checkpoint {path!r} does not exist; check the path.')
    try:
        checkpoint = _load(path)
    except _READ_ERRORS as error:
        if unsafe_part(error):
            raise CheckpointError(unsafe_message(f'checkpoint {path!r}', error)) from error
        message = one_line(error)
        raise CheckpointError(
            f'checkpoint {path!r} ({os.path.getsize(path)} bytes) cannot be read, it is truncated '
            f'or no PyTorch checkpoint: {message[:200] or type(error).__name__}; download or copy '
            'it again.'
        ) from error
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(
            f'checkpoint {path!r} holds a {type(checkpoint).__name__}, not a dict of weights.'
        )
    return dict(checkpoint)


def _load(path: str) -> Any:
    """Load the file with stand-ins for the classes that torch does not know as harmless."""
    foreign = sorted(_foreign_globals(path))
    for name in foreign:
        name = name.replace('__builtin__.', 'builtins.')  # as Python 2 called it
        if _is_standard_function(name):
            raise pickle.UnpicklingError(f'GLOBAL {name}')
    stand_ins = {name: type(f'_Inert{i}', (_Inert,), {}) for i, name in enumerate(foreign)}
    while True:
        try:
            with torch.serialization.safe_globals([(cls, name) for name, cls in stand_ins.items()]):
                return torch.load(path, map_location='cpu', weights_only=True)
        except pickle.UnpicklingError as error:
            # Only here does it show which classes extend dict.
            filled = [
                name
                for name, cls in stand_ins.items()
                if 'SETITEM' in str(error) and str(cls) in str(error)
            ]
            if not filled:
                raise
            stand_ins[filled[0]] = _InertDict


def _is_standard_function(name: str) -> bool:
    """Whether ``name`` is a function of the standard library, such as ``posix.system``: what
    training scripts store are objects of classes, so the file means to call it. Nothing is
    imported.
    """
    module, _, attribute = name.rpartition('.')
    found = getattr(sys.modules.get(module), attribute, None)
    return (
        module.split('.')[0] in sys.stdlib_module_names
        and module not in ('copyreg', '_codecs')  # rebuild plain objects and bytes
        and callable(found)
        and not isinstance(found, type)
    )


def _foreign_globals(path: str) -> Iterable[str]:
    """Return the classes and functions that the file names and torch does not know as harmless."""
    if zipfile.is_zipfile(path):
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    # The former format: magic number, version, system and content, each pickled. What torch itself
    # knows may be named as well, it takes precedence over stand-ins; what was allowed does not.
    allowed = {
        entry[1] if isinstance(entry, tuple) else f'{entry.__module__}.{entry.__qualname__}'
        for entry in torch.serialization.get_safe_globals()
    }
    names = set()
    with open(path, 'rb') as file:
        for _ in range(4):
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == 'GLOBAL':
                    names.add(argument.replace(' ', '.', 1))
    return names - allowed


def select_state_dict(
    checkpoint: Mapping[str, Any], prefix: str | None = None
) -> dict[str, Tensor]:
    """Return the weights in ``checkpoint``, without ``module.`` and ``prefix`` before their names.

    Args:
        checkpoint: a state dict, or one nested under a name of :data:`NESTS`.
        prefix: keep only the entries below it, for example ``'backbone.'``.

    Raises:
        CheckpointError: there are no weights, or none below ``prefix``.
    """
    for nest in NESTS:
        if isinstance(checkpoint.get(nest), Mapping) and checkpoint[nest]:
            checkpoint = checkpoint[nest]
            break
    weights = {key: value for key, value in checkpoint.items() if isinstance(value, Tensor)}
    if not weights:
        raise CheckpointError(
            f'the checkpoint holds no weights, only {", ".join(map(repr, list(checkpoint)[:8]))}; '
            f'weights are looked for at the top and under {", ".join(map(repr, NESTS))}.'
        )
    if all(key.startswith('module.') for key in weights):
        weights = {key[len('module.') :]: value for key, value in weights.items()}
    if prefix:
        prefix = prefix if prefix.endswith('.') else prefix + '.'
        below = {
            key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)
        }
        if not below:
            tops = sorted({key.split('.')[0] for key in weights})
            raise CheckpointError(
                f'prefix={prefix!r} matches nothing in the checkpoint, whose '
                f'entries begin with {", ".join(map(repr, tops))}.'
            )
        weights = below
    return weights


def stored_grid_sizes(checkpoint: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return height and width of the positional grids, by name, where the file says them.

    Names and shapes alone do not tell a grid of 9x16 from one of 12x12; files that
    ``tools/convert_checkpoint.py`` wrote do. Others hold square grids.
    """
    meta = checkpoint.get('meta')
    sizes = meta.get('grid_sizes') if isinstance(meta, Mapping) else None
    return {key: tuple(size) for key, size in sizes.items()} if isinstance(sizes, Mapping) else {}
