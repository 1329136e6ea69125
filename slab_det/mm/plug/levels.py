"""Levels and channels of everything that reads a backbone's maps."""

from collections.abc import Sequence
from typing import Any

from slab_det.errors import InputError
from slab_det.mm.config_walk import walk_dicts

from .detector import Maps
from .notes import Noting

#: Parts of a model that are no modules and read no maps.
_SETTINGS = ('backbone', 'data_preprocessor', 'train_cfg', 'test_cfg', 'init_cfg')
#: Size of a level of SimpleFPN over its map.
_SCALES = (4, 2, 1, 0.5)
#: Channels of the pyramid that feeds a neck or head which had the backbone's own maps.
PYRAMID_CHANNELS = 256


def adapt_levels(
    model: dict[str, Any], old: Maps, new: Maps, config: str, note: Noting
) -> dict[str, Any]:
    """Make ``model`` read the maps of another backbone, in place.

    Every map keeps its stride: the new backbone returns the stages of the strides that the old one
    returned, less those that the neck leaves out (``start_level``). A backbone of one scale gets
    a :class:`~slab_det.mm.necks.SimpleFPN` in place of an FPN and before any other neck. Channels
    are set where the neck, or without one the heads, name those of the old maps, in the same order
    or reversed; also in heads behind a neck that passes the maps on, as SSD's does.

    Args:
        model: config of the model; its backbone is left alone.
        old: maps that the model reads now.
        new: all maps that the new backbone has.
        config: name of the model in errors.
        note: called with (setting, reason).

    Returns:
        Settings of the backbone: ``out_indices`` where they are not all.

    Raises:
        InputError: a map is wanted that the new backbone does not have.
    """
    if list(old.strides) != sorted(set(old.strides)):
        raise InputError(
            f'the {model["type"]} of {config} reads maps of strides {_and(old.strides)}, which '
            'are no pyramid: it cannot take this backbone'
        )
    skipped = _skip_first_levels(model, len(old.strides))
    wanted = old.strides[skipped:]
    channels = dict(zip(new.strides, new.channels))
    single = len(new.strides) == 1
    if single and wanted != new.strides:
        _check_strides(wanted, [new.strides[0] / scale for scale in _SCALES], model, config)
        neck, replaces = _simple_fpn(model, wanted, new, note)
        if not replaces:
            _replace(model, old.channels, [PYRAMID_CHANNELS] * len(wanted), note)
        _put_first(model, neck, replaces)
        return {}
    if skipped:
        note(
            _neck_path(model) + '.start_level',
            f'the first {skipped} of the {len(old.strides)} '
            'maps, which the neck leaves out, are not computed',
        )
    _check_strides(wanted, new.strides, model, config)
    _replace(model, old.channels, [channels[stride] for stride in wanted], note)
    stages = [new.strides.index(stride) for stride in wanted]
    return (
        {} if stages == list(range(len(new.strides))) or single else {'out_indices': tuple(stages)}
    )


def first_neck(model: dict[str, Any]) -> dict[str, Any] | None:
    """Return the part of the neck that reads the backbone's maps, None without a neck."""
    neck = model.get('neck')
    return neck[0] if isinstance(neck, (list, tuple)) and neck else neck


def _skip_first_levels(model: dict[str, Any], maps: int) -> int:
    """Let the neck start with the first map; return how many of the ``maps`` it left out."""
    neck = first_neck(model)
    skipped = neck.get('start_level', 0) if neck else 0
    if not isinstance(skipped, int) or not 0 < skipped < maps:
        return 0
    neck['start_level'] = 0
    if neck.get('end_level', -1) > 0:
        neck['end_level'] -= skipped
    return skipped


def _replace(model: dict[str, Any], old: Sequence[int], new: list[int], note: Noting) -> None:
    """Write ``new`` channels where ``model`` names the ``old`` ones."""
    reader = first_neck(model)
    if reader is None:
        found = _replace_in(model, old, new, ('in_channels', 'out_channels'))
    else:
        passed_on = _starts_with(reader.get('out_channels'), old)
        found = _replace_in(reader, old, new, ('in_channels',) + ('out_channels',) * passed_on)
        if passed_on:  # the heads get these maps, and more
            heads = {key: value for key, value in model.items() if key != 'neck'}
            _replace_in(heads, old, new, ('in_channels',))
        if not found and reader.get('in_channels') == old[-1]:  # it reads the last map alone
            reader['in_channels'], found = new[-1], True
    if not found:
        path = _neck_path(model) if reader is not None else 'model'
        note(
            path,
            f'names no channels {_and(old)} of the maps that it reads: see that it takes '
            f'{_and(new)}',
            left=True,
        )


def _replace_in(part: Any, old: Sequence[int], new: list[int], keys: Sequence[str]) -> bool:
    """Replace lists that start with ``old`` or are it reversed, and the number of a single map."""
    found = False
    for path, owner in list(walk_dicts(part)):
        if set(path.split('.')) & set(_SETTINGS):
            continue
        for key in owner.keys() & set(keys):
            value = owner[key]
            if _starts_with(value, old):
                owner[key] = type(value)([*new, *value[len(old) :]])
            elif isinstance(value, (list, tuple)) and list(value) == list(old)[::-1]:
                owner[key] = type(value)(new[::-1])
            elif len(old) == 1 and value == old[0]:
                owner[key] = new[0]
            else:
                continue
            found = True
    return found


def _starts_with(value: Any, old: Sequence[int]) -> bool:
    return isinstance(value, (list, tuple)) and list(value[: len(old)]) == list(old)


def _simple_fpn(
    model: dict[str, Any], wanted: Sequence[int], new: Maps, note: Noting
) -> tuple[dict[str, Any], bool]:
    """Return the config of a SimpleFPN with the strides ``wanted``, and whether it replaces the
    neck."""
    scales = tuple(scale for scale in _SCALES if new.strides[0] / scale in wanted)
    neck = first_neck(model)
    replaces = neck is not None and neck['type'] == 'FPN'
    config = dict(
        type='SimpleFPN',
        in_channels=new.channels[0],
        out_channels=PYRAMID_CHANNELS,
        scales=scales,
        num_outs=len(scales),
    )
    if replaces:
        config.update(out_channels=neck['out_channels'], num_outs=neck['num_outs'])
        note(_neck_path(model), f'the levels are made of the one map of stride {new.strides[0]}')
    else:
        note(
            'model.neck',
            f'SimpleFPN makes the maps that {"the neck" if neck else "the heads"} read of the one '
            f'map of stride {new.strides[0]}',
        )
    return config, replaces


def _put_first(model: dict[str, Any], neck: dict[str, Any], replaces: bool) -> None:
    rest = model.get('neck') or []
    rest = list(rest) if isinstance(rest, (list, tuple)) else [rest]
    necks = [neck, *rest[1 if replaces else 0 :]]
    model['neck'] = necks if len(necks) > 1 else neck


def _check_strides(
    wanted: Sequence[int], there: Sequence[float], model: dict[str, Any], config: str
) -> None:
    missing = [stride for stride in wanted if stride not in there]
    if missing:
        raise InputError(
            f'the {model["type"]} of {config} reads a map of stride {_and(missing)}, but the '
            'backbone has '
            f'maps of strides {_and(sorted(int(stride) for stride in there))}: it cannot take this '
            'backbone'
        )


def _neck_path(model: dict[str, Any]) -> str:
    return 'model.neck.0' if isinstance(model.get('neck'), (list, tuple)) else 'model.neck'


def _and(values: Sequence[Any]) -> str:
    return ', '.join(map(str, values))
