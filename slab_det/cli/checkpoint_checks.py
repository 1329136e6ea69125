"""Checks of checkpoint files."""

import os
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from slab_det.compat import unsafe_message
from slab_det.errors import InputError, one_line


def check_checkpoint(path: str | None, argument: str) -> None:
    """Check that a checkpoint exists and is whole; addresses (https://...) are left to mmengine.

    Raises:
        InputError: naming ``argument``, the file and the remedy.
    """
    if path is None or '://' in path:
        return
    if not os.path.isfile(os.path.expanduser(path)):
        raise InputError(f'{argument} {path} is not a file: give the path of a checkpoint')
    with open(os.path.expanduser(path), 'rb') as file:
        start = file.read(4)
    # torch writes zip archives, whose table of contents is at the end.
    if not start or start.startswith(b'PK') and not zipfile.is_zipfile(os.path.expanduser(path)):
        raise InputError(
            f'{argument} {path} is empty or truncated ({os.path.getsize(path)} bytes): copy or '
            'download it again, or give an earlier checkpoint'
        )


def read_checkpoint(path: str, argument: str) -> Any:
    """A checkpoint's content on the CPU, mapped rather than read where the format allows it.

    No code of the file runs. Raises InputError where it is missing, truncated or no checkpoint.
    """
    import torch

    check_checkpoint(path, argument)
    path = os.path.expanduser(path)
    try:
        return torch.load(
            path, map_location='cpu', weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as error:
        raise InputError(unsafe_message(f'{argument} {path}', error)) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise InputError(
            f'{argument} {path} is damaged: copy or download it again, or give an earlier '
            f'checkpoint ({_first_sentence(error)})'
        ) from error


def check_fit(path: str, model, argument: str, whole: bool = True) -> None:
    """Check that the checkpoint's weights are those of ``model``.

    mmengine loads what fits and only warns of the rest, so that another model's checkpoint would be
    evaluated with random weights.

    Args:
        path: the checkpoint; addresses such as https://... are left to mmengine.
        model: a throw-away model, its weights are overwritten.
        argument: the name of the argument in an error.
        whole: every parameter must be there; else (a start for fine-tuning) any of the backbone's.
    """
    if '://' in path:
        return
    content = read_checkpoint(path, argument)
    weights = content.get('state_dict', content) if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise InputError(f'{argument} {path} holds no state_dict: give a checkpoint of this model')
    weights = {key.removeprefix('module.'): value for key, value in weights.items()}
    faults: dict[str, str] = {}
    missing: list[str] = []
    try:
        missing = model.load_state_dict(weights, strict=False).missing_keys
    except RuntimeError as error:  # torch lists the sizes that differ, one a line
        lines = [
            line.strip().rstrip('.')
            for line in str(error).splitlines()
            if 'size mismatch for ' in line
        ]
        faults = {line.split('size mismatch for ')[1].split(':')[0]: line for line in lines}
        if not faults:
            raise InputError(
                f'{argument} {path} does not fit the model: {one_line(error)}'
            ) from error
        rest = {key: value for key, value in weights.items() if key not in faults}
        with suppress(RuntimeError):  # where a module renamed the entries that differ
            missing = model.load_state_dict(rest, strict=False).missing_keys
    for name in missing:
        faults.setdefault(name, f'no {name}')
    parameters = [
        name for name, _ in model.named_parameters() if whole or name.startswith('backbone.')
    ]
    wrong = [faults[name] for name in parameters if name in faults]
    if wrong and (whole or len(wrong) == len(parameters)):
        raise InputError(
            f'{argument} {path} is a checkpoint of another model: {wrong[0]} ({len(wrong)} such '
            'faults); give one that was trained with this config'
        )


def check_resume(cfg, model) -> None:
    """Check the checkpoint that ``cfg.resume`` means: ``cfg.load_from``, else the last one.

    Raises:
        InputError: where it is missing, truncated, of another model, or holds weights only.
    """
    path, argument = cfg.get('load_from'), '--resume'
    if path is None:
        note = os.path.join(cfg.work_dir, 'last_checkpoint')
        if not os.path.isfile(note):
            return  # nothing to resume, mmengine says so and begins at the start
        with open(note, encoding='utf-8') as file:
            path = file.read().strip()
        _check_note(note, path)
        argument = f'--resume: {note} names'
    if '://' in path:
        return
    content = read_checkpoint(path, argument)
    absent = [
        key
        for key in ('optimizer', 'message_hub')
        if not isinstance(content, dict) or key not in content
    ]
    if absent:
        raise InputError(
            f'{argument} {path}, which has no {" and no ".join(absent)}: to start from its '
            f'weights, leave --resume out and set --cfg-options load_from={path}'
        )
    check_fit(path, model, argument)


def _check_note(note: str, path: str) -> None:
    """Check that ``note``, mmengine's last_checkpoint, names a file that is there.

    A kill between the opening and the writing of the note leaves it empty; one between the removal
    of the only checkpoint and the writing of the next (max_keep_ckpts=1) leaves it with a lost
    name.
    """
    if '://' in path or os.path.isfile(os.path.expanduser(path)):
        return
    kept = [
        str(file)
        for start in ('epoch', 'iter')
        for file in Path(note).parent.glob(f'{start}_*.pth')
    ]
    remedy = f'--resume {max(kept, key=os.path.getmtime)}' if kept else '--resume CHECKPOINT'
    fault = f'names {path}, which is not a file' if path else 'is empty'
    raise InputError(f'--resume: {note} {fault}: name the checkpoint to go on from, {remedy}')


def _first_sentence(error: BaseException) -> str:
    return one_line(error).split('. ')[0].rstrip('.')
