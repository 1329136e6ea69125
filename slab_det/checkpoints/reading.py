"""Reading a checkpoint file without running code from it."""

import os
import pickle
import pickletools
import re
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from slab_det.errors import MissingFileError
from slab_det.layers.norm_names import entries_below

from .families import FAMILIES
from .family import CheckpointError

#: Keys under which training scripts nest the weights, and those averaged over training (EMA).
NESTS = ('state_dict', 'model', 'model_state_dict', 'module', 'params')
AVERAGED = ('state_dict_ema', 'model_ema', 'ema_state_dict', 'ema', 'ema_model', 'params_ema')
#: What wrappers put before the name of every entry: DDP, Lightning, our backbones, averages.
WRAPPERS = ('module.', 'model.', 'net.', 'network.', *(f'{name}.' for name in AVERAGED))
#: What torch puts before the names of a compiled, sharded or recomputed module, at any depth.
_WITHIN = re.compile(r'(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.')

#: What torch and safetensors raise if a file is damaged or of another kind.
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
    SafetensorError,
)


def is_address(source: str) -> bool:
    """Whether ``source`` names a checkpoint elsewhere, ``SCHEME://...`` or ``hf-hub:OWNER/NAME``,
    and not a file."""
    return '://' in source or source.startswith(('hf-hub:', 'hf_hub:'))


class _Inert:
    """Stands for an object of a class that is not loaded, such as a training script's options;
    ``origin`` is the name of that class."""

    origin = ''

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Drop the arguments of the object."""

    def __setstate__(self, state: Any) -> None:
        """Drop its state."""


class _InertDict:
    """Stands for an object whose class extends dict, such as a yacs config. torch fills nothing
    but its own choice of dicts, so it becomes one of them."""

    def __new__(cls, *args: Any, **kwargs: Any) -> OrderedDict:
        return OrderedDict()


def read_checkpoint(
    path: str, argument: str = 'checkpoint', foreign: bool = True
) -> dict[str, Any]:
    """Read the checkpoint file ``path`` on the CPU, mapped into memory if the format allows it.

    torch's present and former format and safetensors are read. Only tensors and plain containers
    are built; no code of the file runs.

    Args:
        path: the file.
        argument: what an error calls it.
        foreign: objects of other classes, such as the argparse namespace or yacs config in
            published files, become empty stand-ins; otherwise the file is refused.

    Raises:
        MissingFileError: the file does not exist.
        CheckpointError: the file is truncated, is not a checkpoint, is a whole model, or cannot be
            read without running code from it.
    """
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise MissingFileError(f'{argument} {path!r} does not exist; check the path.')
    try:
        checkpoint = _load(path, foreign)
    except _READ_ERRORS as error:
        message = ' '.join(str(error).split())
        # The former format stores the source of a model's classes as storages are stored.
        for sign, kind in (
            ('torchscript', 'TorchScript'),
            ('only persistent_load of', 'nn.Module'),
        ):
            if sign in message.lower():
                raise CheckpointError(_whole_model(f'{argument} {path!r}', kind)) from error
        unsafe = re.search(r'GLOBAL `?[\w.]+|Unsupported \w+ \w+', message)
        if unsafe:
            raise CheckpointError(
                f'{argument} {path!r} cannot be read without running code from it '
                f'({unsafe.group().replace("`", "")}); save its weights alone.'
            ) from error
        raise CheckpointError(
            f'{argument} {path!r} ({os.path.getsize(path)} bytes) cannot be read, it is truncated '
            f'or not a checkpoint of PyTorch or safetensors: '
            f'{message[:200] or type(error).__name__}; download or copy it again.'
        ) from error
    if isinstance(checkpoint, _Inert):
        raise CheckpointError(_whole_model(f'{argument} {path!r}', checkpoint.origin))
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(
            f'{argument} {path!r} holds a {type(checkpoint).__name__}, not a dict of weights.'
        )
    return dict(checkpoint)


def _whole_model(what: str, kind: str) -> str:
    return (
        f'{what} is a whole pickled model ({kind}), which would run code of the file; where it was '
        'made, save its weights alone with torch.save(model.state_dict(), PATH).'
    )


def _is_safetensors(path: str) -> bool:
    """Whether the file begins with a header in JSON and its length, as no other format does."""
    with open(path, 'rb') as file:
        start = file.read(9)
    return start[8:] == b'{' and int.from_bytes(start[:8], 'little') < 2**32


def _load(path: str, foreign: bool) -> Any:
    """Load the file, if ``foreign`` with stand-ins for what torch does not know as harmless."""
    if _is_safetensors(path):
        return load_file(path)
    zipped = zipfile.is_zipfile(path)
    names = sorted(_foreign_globals(path, zipped)) if foreign else ()
    for name in names:
        name = name.replace('__builtin__.', 'builtins.')  # as Python 2 called it
        if _is_standard_function(name):
            raise pickle.UnpicklingError(f'GLOBAL {name}')
    stand_ins = {
        name: type(f'_Inert{i}', (_Inert,), {'origin': name}) for i, name in enumerate(names)
    }
    while True:
        try:
            with torch.serialization.safe_globals([(cls, name) for name, cls in stand_ins.items()]):
                return torch.load(path, map_location='cpu', weights_only=True, mmap=zipped)
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
    """Whether ``name`` is a function of the standard library, such as ``posix.system``.

    What training scripts store are objects of classes, so the file means to call it. Nothing is
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


def _foreign_globals(path: str, zipped: bool) -> Iterable[str]:
    """Return the classes and functions that the file names and torch does not know as harmless."""
    if zipped:
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


class Selection(NamedTuple):
    """Weights of a checkpoint that may hold several sets.

    Attributes:
        weights: without the prefixes of wrappers.
        taken: which set it is, in words, if the file holds plain and averaged ones; else ''.
    """

    weights: dict[str, Tensor]
    taken: str


def select_state_dict(
    checkpoint: Mapping[str, Any], prefix: str | None = None, ema: bool | None = None
) -> dict[str, Tensor]:
    """Return the weights in ``checkpoint``, see :func:`select_weights`."""
    return select_weights(checkpoint, prefix, ema).weights


def select_weights(
    checkpoint: Mapping[str, Any], prefix: str | None = None, ema: bool | None = None
) -> Selection:
    """Return the weights in ``checkpoint``, without what wrappers put before their names.

    Wrappers are data-parallel, compiled, averaged and Lightning modules, in any order, and our
    own backbones.

    Args:
        checkpoint: a state dict, or one nested under names of :data:`NESTS` and :data:`AVERAGED`.
        prefix: keep only the entries below it, for example ``'backbone.'``.
        ema: take the weights averaged over training (True) or the plain ones (False); by default
            what the file has first, in the order of :data:`NESTS`, then :data:`AVERAGED`.

    Raises:
        CheckpointError: there are no weights, none below ``prefix``, or none of the kind that
            ``ema`` asks for.
    """
    sets = _nested(checkpoint)
    if not sets:
        for nest in NESTS + AVERAGED:
            if isinstance(checkpoint.get(nest), _Inert):
                raise CheckpointError(
                    _whole_model(f'{nest!r} of the checkpoint', checkpoint[nest].origin)
                )
        raise CheckpointError(
            f'the checkpoint holds no weights, only {", ".join(map(repr, list(checkpoint)[:8]))}; '
            f'weights are looked for at the top and under '
            f'{", ".join(map(repr, NESTS + AVERAGED))}.'
        )
    averaged = _averaged(sets)
    if ema is None and prefix and prefix.split('.')[0] in AVERAGED:
        ema = True
    names = [name for name in sets if ema is None or (name in averaged) == ema]
    if not names:
        raise CheckpointError(
            f'ema={ema}, but the checkpoint holds {"no" if ema else "only"} averaged weights, '
            f'under {_and(sets)}; leave ema out.'
        )
    weights, taken = sets[names[0]], ''
    own = names[0] in averaged
    if others := [name for name in sets if (name in averaged) != own]:
        kinds = ('averaged', 'plain') if own else ('plain', 'averaged')
        taken = (
            f'{kinds[0]} weights of {_and(names[:1])} taken, ema={not own} takes the {kinds[1]} '
            f'ones of {_and(others)}'
        )
    whole = _unwrap(weights)
    if not prefix:
        return Selection(whole, taken)
    prefix = prefix if prefix.endswith('.') else prefix + '.'
    inside = entries_below(weights, prefix) or entries_below(whole, prefix)
    if not inside:
        raise CheckpointError(
            f'prefix={prefix!r} matches nothing in the checkpoint, whose entries begin with '
            f'{_and(sorted({key.split(".")[0] for key in whole}))}.'
        )
    return Selection(_unwrap(inside), taken)


def _nested(content: Mapping[str, Any], place: str = '') -> dict[str, dict[str, Tensor]]:
    """Return every set of weights in ``content``, by the keys that lead to it, joined by dots."""
    sets: dict[str, dict[str, Tensor]] = {}
    for nest in NESTS + AVERAGED:
        if isinstance(content.get(nest), Mapping):
            sets |= _nested(content[nest], f'{place}{nest}.')
    if not sets:  # flat names may tell two sets apart as well
        for key, value in content.items():
            if isinstance(value, Tensor):
                top = key.partition('.')[0]
                name = f'{place}{top}.' if top in AVERAGED else place
                sets.setdefault(name, {})[key] = value
    return sets


def _averaged(sets: Mapping[str, Mapping[str, Tensor]]) -> set[str]:
    """Return the names of the ``sets`` that are averaged over training."""
    averaged = {name for name in sets if set(name.split('.')) & set(AVERAGED)}
    if 'steps' in sets.get('ema_state_dict.', ()) and 'state_dict.' in sets:
        # mmengine's EMAHook exchanges the two when it saves, so that tests take the average.
        averaged ^= {'ema_state_dict.', 'state_dict.'}
    return averaged


def _unwrap(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return ``weights`` without what wrappers put before their names or count beside them."""
    weights = {_WITHIN.sub('', key): value for key, value in weights.items()}
    while True:
        for prefix in WRAPPERS:
            inside = entries_below(weights, prefix)
            rest = {
                key: value
                for key, value in weights.items()
                # An average counts its steps.
                if not key.startswith(prefix) and ('.' in key or value.numel() > 1)
            }
            # Lightning keeps losses and metrics beside the model.
            if inside and (not rest or _is_known(inside) and not _is_known(weights)):
                norms = {key: value for key, value in rest.items() if re.match(r'norm\d+\.', key)}
                weights = {**inside, **norms}  # output norms lie beside the net of our backbones
                break
        else:
            return weights


def _is_known(weights: Mapping[str, Tensor]) -> bool:
    """Whether ``weights`` are of a known family or of a detector."""
    return any(family.matches(weights) for family in FAMILIES) or any(
        key.startswith('backbone.') for key in weights
    )


def _and(names: Iterable[str]) -> str:
    return ', '.join(repr(name.rstrip('.') or 'the top') for name in names)


def stored_grid_sizes(checkpoint: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return height and width of the positional grids, by name, if the file records them.

    Names and shapes alone do not tell a grid of 9x16 from one of 12x12; files that
    ``tools/convert_checkpoint.py`` wrote do. Others hold square grids.
    """
    meta = checkpoint.get('meta')
    sizes = meta.get('grid_sizes') if isinstance(meta, Mapping) else None
    return {key: tuple(size) for key, size in sizes.items()} if isinstance(sizes, Mapping) else {}
