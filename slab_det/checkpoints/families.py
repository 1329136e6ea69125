"""The families that are known, and which of them a state dict is."""

from torch import Tensor

from . import cswin, deit, pvt, pvt_v2, swin
from .family import CheckpointError, Family, Weights

FAMILIES: list[Family] = [swin.FAMILY, pvt.FAMILY, pvt_v2.FAMILY, deit.FAMILY, cswin.FAMILY]

_OTHERS = {
    'layer1.0.conv1.weight': 'a ResNet',
    'stem.conv.weight': 'a convolutional network',
}


def detect_family(state_dict: Weights) -> Family:
    """Return the family of ``state_dict``.

    Raises:
        CheckpointError: no known family; the message says what the names look like.
    """
    for family in FAMILIES:
        if family.matches(state_dict):
            return family
    for key, name in _OTHERS.items():
        if key in state_dict:
            raise CheckpointError(f'the checkpoint is {name}, which no model here takes.')
    tops = sorted({key.split('.')[0] for key in state_dict})
    detectors = sorted(key.partition('backbone.')[0] for key in state_dict if 'backbone.' in key)
    hint = ''
    if detectors:
        hint = f" It looks like a whole detector: pass prefix='{detectors[0]}backbone.'."
    raise CheckpointError(
        'the checkpoint is of no known family, its entries begin with '
        f'{", ".join(map(repr, tops[:12]))}.{hint}'
    )


def to_our_names(
    state_dict: Weights, family: Family
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Return ``state_dict`` under our module names, what was renamed and what was dropped."""
    weights: dict[str, Tensor] = {}
    moved, dropped = [], []
    for key, entries in family.translate(state_dict).items():
        if entries:
            moved.extend([key] if key not in entries else [])
        else:
            dropped.append(key)
        for name, value in entries.items():
            if name in weights:
                raise CheckpointError(
                    f'the checkpoint mixes two namings: {name} comes from {key} and from another '
                    'entry; keep one of them.'
                )
            weights[name] = value
    return weights, moved, dropped
