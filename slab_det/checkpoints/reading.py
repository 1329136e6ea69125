"""Reading a checkpoint file without running code from it."""
import os
import pickle
import zipfile
from typing import Any, Dict, Mapping, Optional, Tuple

import torch
from torch import Tensor

from .family import CheckpointError

#: Keys under which training scripts nest the weights.
NESTS = ('state_dict', 'model', 'state_dict_ema', 'model_ema')


class _Inert(dict):
    """Stands for an object of a class that is not loaded, such as a training config."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        """The state of the object is dropped with the object."""


def read_checkpoint(path: str) -> Dict[str, Any]:
    """Read the checkpoint file ``path`` on the CPU.

    Only tensors and plain containers are built. Objects of other classes, such as the argparse
    namespace or yacs config in published files, become empty stand-ins; none of their code
    runs.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is truncated or no checkpoint.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f'checkpoint {path!r} does not exist; check the path.')
    try:
        stand_ins = [(_Inert, name)
                     for name in torch.serialization.get_unsafe_globals_in_checkpoint(path)]
        with torch.serialization.safe_globals(stand_ins):
            checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except (RuntimeError, ValueError, EOFError, KeyError, OSError, AttributeError, IndexError,
            pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f'checkpoint {path!r} ({os.path.getsize(path)} bytes) cannot be read, it is truncated '
            f'or no PyTorch checkpoint: {reason}; download or copy it again.') from error
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(f'checkpoint {path!r} holds a {type(checkpoint).__name__}, not a '
                              'dict of weights.')
    return dict(checkpoint)


def select_state_dict(checkpoint: Mapping[str, Any], prefix: Optional[str] = None) -> Dict[str, Tensor]:
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
            f'weights are looked for at the top and under {", ".join(map(repr, NESTS))}.')
    if all(key.startswith('module.') for key in weights):
        weights = {key[len('module.'):]: value for key, value in weights.items()}
    if prefix:
        prefix = prefix if prefix.endswith('.') else prefix + '.'
        below = {key[len(prefix):]: value for key, value in weights.items() if key.startswith(prefix)}
        if not below:
            tops = sorted({key.split('.')[0] for key in weights})
            raise CheckpointError(f'prefix={prefix!r} matches nothing in the checkpoint, whose '
                                  f'entries begin with {", ".join(map(repr, tops))}.')
        weights = below
    return weights


def stored_grid_sizes(checkpoint: Mapping[str, Any]) -> Dict[str, Tuple[int, int]]:
    """Return height and width of the positional grids, by name, where the file says them.

    Names and shapes alone do not tell a grid of 9x16 from one of 12x12; files that
    ``tools/convert_checkpoint.py`` wrote do. Others hold square grids.
    """
    meta = checkpoint.get('meta')
    sizes = meta.get('grid_sizes') if isinstance(meta, Mapping) else None
    return {key: tuple(size) for key, size in sizes.items()} if isinstance(sizes, Mapping) else {}
