"""Checks of checkpoint files."""

import os
import re
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from slab_det.errors import InputError, one_line


def check_checkpoint(path: str | None, argument: str) -> None:
    """Check that a checkpoint exists and is whole; addresses (https://...) are left to mmengine.

    Raises:
        InputError: naming ``argument``, the file and the remedy.
    """
    if path is None or '://' in path:
        return
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f'{argument} {path} is not a file: give the path of a checkpoint')
    with file.open('rb') as content:
        start = content.read(4)
    # torch writes zip archives, whose table of contents is at the end.
    if not start or start.startswith(b'PK') and not zipfile.is_zipfile(file):
        raise InputError(
            f'{argument} {path} is empty or truncated ({file.stat().st_size} bytes): copy or '
            'download it again, or give an earlier checkpoint'
        )


def read_checkpoint(path: str, argument: str) -> dict[str, Any]:
    """Return the content of a checkpoint that mmengine will load too.

    It is read by :func:`slab_det.checkpoints.read_checkpoint`; objects besides weights are refused.

    Raises:
        InputError: naming ``argument``, if it is missing, truncated, or not a checkpoint.
    """
    from slab_det import checkpoints

    check_checkpoint(path, argument)
    return checkpoints.read_checkpoint(path, argument, foreign=False)


def check_fit(path: str, model, argument: str, whole: bool = True) -> None:
    """Check that the checkpoint's weights are those of ``model``; addresses are left to mmengine.

    The arguments are those of :func:`load_weights`, which overwrites the weights of ``model``.
    """
    if '://' not in path:
        load_weights(read_checkpoint(path, argument), path, model, argument, whole)


def load_weights(content: Any, path: str, model, argument: str, whole: bool = True) -> None:
    """Load a checkpoint's weights into ``model`` and check that they are its own.

    mmengine loads what fits and only warns of the rest, so that another model's checkpoint would be
    evaluated with random weights.

    Args:
        content: of the checkpoint.
        path: where it is, for the message.
        model: gets the weights that fit.
        argument: the name of the argument in an error.
        whole: every parameter must be there; else (a start for fine-tuning) any of the backbone's.
    """
    weights = content.get('state_dict', content)
    if not isinstance(weights, dict) or not weights:
        raise InputError(f'{argument} {path} holds no state_dict: give a checkpoint of this model')
    weights = {key.removeprefix('module.'): value for key, value in weights.items()}
    faults: dict[str, str] = {}
    missing: list[str] = []
    try:
        missing = model.load_state_dict(weights, strict=False).missing_keys
    except RuntimeError as error:
        # torch lists the sizes that differ, one per line.
        found = re.findall(r'size mismatch for ([^:]+)(:.*?)\.?$', str(error), re.MULTILINE)
        if not found:
            raise InputError(
                f'{argument} {path} does not fit the model: {one_line(error)}'
            ) from error
        faults = {name: f'size mismatch for {name}{sizes}' for name, sizes in found}
        rest = {key: value for key, value in weights.items() if key not in faults}
        with suppress(RuntimeError):  # if a module renamed the entries that differ
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
            f'faults); {_remedy(weights)}'
        )


def _remedy(weights: dict[str, Any]) -> str:
    from slab_det.checkpoints import CheckpointError, detect_family

    try:
        family = detect_family(weights)
    except CheckpointError:
        return 'give one that was trained with this config'
    return (
        f'it is a {family.title} alone and not a detector: name it as checkpoint in the init_cfg '
        "of model.backbone, with type='Pretrained'"
    )


def check_resume(cfg, model) -> None:
    """Check the checkpoint to resume from: ``cfg.load_from``, or the last one of the work dir.

    Raises:
        InputError: it is missing, truncated, of another model, or holds weights only.
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
    absent = [key for key in ('optimizer', 'message_hub') if key not in content]
    if absent:
        raise InputError(
            f'{argument} {path}, which has no {" and no ".join(absent)}: to start from its '
            f'weights, leave --resume out and set --cfg-options load_from={path}'
        )
    load_weights(content, path, model, argument)


def _check_note(note: str, path: str) -> None:
    """Check that ``note``, mmengine's last_checkpoint, names a file that is there.

    If training is killed between the opening and the writing of the note, it is empty; between the
    removal of the only checkpoint and the writing of the next (max_keep_ckpts=1), it names a file
    that is gone.
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
