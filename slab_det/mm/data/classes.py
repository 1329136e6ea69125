"""Classes: those of annotation files, data sets, heads and checkpoints against each other."""

import difflib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from slab_det.errors import InputError

from .columns import repeated
from .findings import Finding, Use
from .rules import TRAIN

if TYPE_CHECKING:
    from .annotations import Annotations


def few(names: Sequence, most: int = 5) -> str:
    """Return the first names, quoted, and how many more there are."""
    shown = ', '.join(repr(name) for name in names[:most])
    return (
        shown + (f' and {len(names) - most} more' if len(names) > most else '') if names else 'none'
    )


def classes_of(dataset: dict, dataset_class: Any, path: str) -> tuple[str, ...] | None:
    """Return the classes of a data set's config: those of ``metainfo``, else of its class.

    Raises:
        InputError: ``metainfo.classes`` is not a list of names, or names one twice.
    """
    classes = (dataset.get('metainfo') or {}).get('classes')
    if classes is None:
        classes = getattr(dataset_class, 'METAINFO', {}).get('classes')
        return None if classes is None else tuple(classes)
    setting = f'{path}.metainfo.classes'
    if isinstance(classes, str):
        # mmengine reads a file of names, and takes any other text for the names itself.
        if not os.path.isfile(classes):
            raise InputError(
                f'{setting} is the text {classes!r}, of which every letter would be a class: '
                f'write ({classes!r},) with a comma, or give a file with a name per line'
            )
        with open(classes, encoding='utf-8') as file:
            classes = file.read().splitlines()
    if not isinstance(classes, (list, tuple)):
        raise InputError(f'{setting} is {classes!r:.60}: give a tuple of names')
    classes = list(classes)
    wrong = [name for name in classes if not isinstance(name, str)]
    if wrong:
        raise InputError(f'{setting} holds {wrong[0]!r}, which is not a name: give texts only')
    twice = [classes[index] for index in repeated(classes)]
    if twice:
        raise InputError(
            f'{setting} names {few(twice)} twice, and labels after it would be shifted: name '
            "every class once, and set the heads' num_classes to their number"
        )
    return tuple(classes)


def class_findings(
    found: 'Annotations', use: Use
) -> tuple[tuple[str, ...], np.ndarray, list[Finding]]:
    """Compare the categories of a file with the classes that it is read for.

    mmdet numbers labels by the order of the file's categories, whatever the order of the classes.

    Returns:
        Names of the classes, ``(categories + 1, )`` label of each category (-1 for none and for the
        last, which stands for an unknown one), and what is wrong.
    """
    names, numbers = found.category_names, found.category_ids
    findings: list[Finding] = []
    classes = use.classes
    if classes is None:
        classes = tuple(str(name) for name in names)
        chosen = list(range(len(names)))
    else:
        wanted = set(classes)
        chosen = [index for index, name in enumerate(names) if type(name) is str and name in wanted]
    taken = [names[index] for index in chosen]
    count = np.bincount(found.category_of[found.category_of >= 0], minlength=len(names))
    absent = [name for name in classes if name not in taken]
    if absent:
        near = difflib.get_close_matches(
            absent[0], [name for name in names if type(name) is str], n=1, cutoff=0.75
        )
        findings.append(
            Finding(
                'class-absent',
                f'has no category {few(absent)}'
                + (f' (nearest: {near[0]!r})' if near else '')
                + f', its categories are {few([n for n in names if type(n) is str])}',
                (),
                True,
                f"set --cfg-options {use.classes_setting} (and the heads' num_classes) to the "
                'classes of the file',
            )
        )
    readable = [n if type(n) is str else repr(n) for n in taken]
    twice = sorted({readable[index] for index in repeated(readable)})
    repeated_ids = repeated([numbers[index] for index in chosen])
    if twice:
        where = [
            f'category {numbers[index]!r} with {count[index]} annotations'
            for index, name in zip(chosen, readable)
            if name in twice
        ]
        findings.append(
            Finding(
                'category-twice',
                f'has several categories of the name {few(twice)}, so that there are more labels '
                f'than the {len(set(readable))} classes',
                tuple(where[:3]),
                True,
                'rename or remove all but one (category 0 of a Roboflow export stands for the '
                f'whole set), as tools/check_data.py --ann {found.path} --fix NEW.json does',
            )
        )
    elif len(repeated_ids):
        findings.append(
            Finding(
                'category-id-twice',
                f'has several categories with the id {numbers[chosen[repeated_ids[0]]]!r}',
                tuple(few([readable[index]]) for index in repeated_ids[:3]),
                True,
                'give every category an id of its own',
            )
        )
    elif not absent and use.classes is not None and tuple(taken) != tuple(classes):
        first = next(index for index, pair in enumerate(zip(taken, classes)) if pair[0] != pair[1])
        findings.append(
            Finding(
                'class-order',
                f'lists its categories in another order than the classes: label {first} is '
                f'{taken[first]!r} in the file and {classes[first]!r} in '
                f'{use.classes_setting}, and mmdet numbers labels by the order of the file',
                (),
                True,
                f'set --cfg-options {use.classes_setting} to the order {few(taken, 20)}, or write '
                f'a copy in the order of the classes with tools/check_data.py --ann {found.path} '
                '--classes NAME ... --fix NEW.json',
            )
        )
    label_of = np.full(len(names) + 1, -1)
    # Of equal ids pycocotools keeps the last category, to which labels then belong.
    label_of[chosen] = (
        np.arange(len(chosen))
        if not twice
        else [list(dict.fromkeys(readable)).index(name) for name in readable]
    )
    if twice and use.classes is None:
        classes = tuple(dict.fromkeys(classes))
    label_of[label_of >= len(classes)] = -1
    findings += _thin_classes(found, use, chosen, count)
    return tuple(classes), label_of, findings


def _thin_classes(found: 'Annotations', use: Use, chosen, count) -> Iterator[Finding]:
    """Yield classes without annotations, and a category that stands for the whole set."""
    empty = [index for index in chosen if not count[index]]
    if not empty or not len(found.annotations) or TRAIN not in use.roles:
        return
    parents = {
        category.get('supercategory')
        for category in found.categories
        if isinstance(category.get('supercategory'), str)
    }
    roots = [index for index in empty if found.category_names[index] in parents]
    text = f'{len(empty)} of {len(chosen)} classes have no annotation'
    if roots:
        text += (
            f'; {found.category_names[roots[0]]!r} is the supercategory of others and may stand '
            'for the whole set'
        )
    names = tuple(
        f'category {found.category_ids[i]!r}, {found.category_names[i]!r}' for i in empty[:3]
    )
    yield Finding('class-empty', text, names, False, 'leave them out of the classes')


def check_class_order(
    first: tuple[str, tuple[str, ...]], others: Sequence[tuple[str, tuple[str, ...]]]
) -> None:
    """Check that all data sets mean the same by their labels.

    Args:
        first: (setting, classes) of a data set.
        others: likewise of more data sets.

    Raises:
        InputError: naming the two settings and the first label that differs.
    """
    for path, classes in others:
        if classes != first[1]:
            raise InputError(
                f'{path}.metainfo.classes and those of {first[0]} differ: '
                f'{_difference(classes, first[1])}: '
                "give both the same names in the same order, and the heads' num_classes their "
                'number'
            )


def _difference(one: Sequence[str], other: Sequence[str]) -> str:
    pair = next(
        (
            f'label {index} is {a!r} and {b!r}'
            for index, (a, b) in enumerate(zip(one, other))
            if a != b
        ),
        f'{len(one)} and {len(other)} classes',
    )
    return pair + (', the same names in another order' if set(one) == set(other) else '')


def heads_of(model: Any) -> Iterator[tuple[str, int]]:
    """Yield (name, ``num_classes``) of every head of a detector that predicts classes.

    Region proposal networks and semantic branches count otherwise; detectors with a language model
    take their classes from the text.
    """
    if hasattr(model, 'language_model') or hasattr(model, 'language_model_cfg'):
        return
    for name, module in model.named_modules():
        parts = name.split('.')
        number = getattr(module, 'num_classes', None)
        if (
            isinstance(number, int)
            and any(part.endswith('_head') for part in parts)
            and not any('rpn_head' in part or 'semantic' in part for part in parts)
            and not any(part.startswith('loss') for part in parts)
        ):
            yield name, number


def check_classes_of_model(
    model: Any, classes: Sequence[str], config: str, things: Sequence[str] = ()
) -> None:
    """Check ``num_classes`` of every head against the classes of the data.

    Args:
        model: a detector.
        classes: names of the classes.
        config: named in the error.
        things: the classes with instances, of panoptic data, which heads of boxes count alone.

    Raises:
        InputError: naming the heads that differ.
    """
    allowed = {len(classes), len(things) or len(classes)}
    wrong = [(name, number) for name, number in heads_of(model) if number not in allowed]
    if wrong:
        name, number = wrong[0]
        more = f' (and {len(wrong) - 1} more heads)' if len(wrong) > 1 else ''
        settings = ' '.join(f'model.{name}.num_classes={len(classes)}' for name, _ in wrong[:4])
        raise InputError(
            f'num_classes of model.{name} of {config} is {number}{more}, but the data have '
            f'{len(classes)} classes, {few(classes)}: set --cfg-options {settings}, or '
            'metainfo.classes of the data sets'
        )


def check_trained_classes(
    trained: Any, classes: Sequence[str], argument: str, strict: bool = True
) -> str | None:
    """Compare the classes that a checkpoint was trained for with those of a config.

    Args:
        trained: ``dataset_meta`` of the checkpoint, or None.
        classes: of the config.
        argument: names the checkpoint.
        strict: the labels of the checkpoint are used, not only its weights to start from.

    Returns:
        A warning where the names differ, or None.

    Raises:
        InputError: the names are the same in another order.
    """
    if not isinstance(trained, dict):
        return None
    names = trained.get('classes', trained.get('CLASSES'))
    if not isinstance(names, (list, tuple)) or list(names) == list(classes) or not strict:
        return None
    text = f'{argument} was trained for other classes than those of the config: '
    text += _difference(tuple(names), tuple(classes))
    if sorted(map(str, names)) == sorted(classes):
        raise InputError(
            f'{text}: set metainfo.classes to {few(list(names), 20)}, and order the categories of '
            'the files alike'
        )
    return text
