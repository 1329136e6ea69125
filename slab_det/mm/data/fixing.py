"""Corrected copies of annotation files: what can be said for certain is corrected, nothing else."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import numpy as np

from .columns import is_id, is_number
from .images import look_at
from .masks import is_polygon

Content = dict[str, Any]


def fix(
    content: Content, images: str | None = None, classes: Sequence[str] = ()
) -> tuple[Content, list[str]]:
    """Return a corrected copy of a COCO file's content, and what was changed, a sentence per kind.

    Args:
        content: its lists of images, annotations and categories; left as it is.
        images: folder of the images, from which missing sizes are read.
        classes: names in whose order the categories are put.
    """
    content = deepcopy(content)
    changes: Counter[str] = Counter()
    for step in (_drop_entries, _fix_ids, _fix_categories):
        changes.update(step(content))
    changes.update(_order_categories(content, classes))
    changes.update(_fix_images(content, images))
    changes.update(_drop_lost(content))
    for annotation in content['annotations']:
        changes.update(_fix_annotation(annotation))
    boxless = [one for one in content['annotations'] if not _is_box(one.get('bbox'))]
    if boxless:
        content['annotations'] = [one for one in content['annotations'] if _is_box(one.get('bbox'))]
        changes['annotations without a bbox or polygons removed'] += len(boxless)
    changes.update(_number(content))
    return content, [f'{count:,} {text}' for text, count in changes.items()]


def _drop_entries(content: Content) -> Iterator[str]:
    """Remove entries that lack what nothing can say."""
    needed = dict(
        images=('id', 'file_name'),
        annotations=('image_id', 'category_id'),
        categories=('id', 'name'),
    )
    for part, keys in needed.items():
        kept = []
        for entry in content[part]:
            named = (
                part == 'annotations'
                or isinstance(entry, dict)
                and all(isinstance(entry.get(key), str) for key in keys[1:])
            )
            if isinstance(entry, dict) and named and all(is_id(entry.get(key)) for key in keys):
                kept.append(entry)
            else:
                yield f'{part} without {" or ".join(keys)} removed'
        content[part] = kept


def _fix_ids(content: Content) -> Iterator[str]:
    """Write ids as numbers where all of a kind are numbers as texts, and one side only is."""
    for part, key, reference in (
        ('images', 'id', 'image_id'),
        ('categories', 'id', 'category_id'),
    ):
        known = {entry[key] for entry in content[part]}
        if all(one[reference] in known for one in content['annotations']):
            continue
        for entries, name in ((content[part], key), (content['annotations'], reference)):
            values = [entry[name] for entry in entries]
            texts = [value for value in values if isinstance(value, str)]
            if texts and all(_as_integer(text) is not None for text in texts):
                for entry in entries:
                    if isinstance(entry[name], str):
                        entry[name] = _as_integer(entry[name])
                        yield f'{name}s written as numbers'


def _fix_categories(content: Content) -> Iterator[str]:
    """Join categories of one name; of these, the first that has annotations keeps its id."""
    used = Counter(one['category_id'] for one in content['annotations'])
    by_name: dict[Any, list[dict]] = {}
    for category in content['categories']:
        by_name.setdefault(category['name'], []).append(category)
    for name, alike in by_name.items():
        numbers = {category['id'] for category in alike}
        if len(alike) == 1:
            continue
        kept = next((category for category in alike if used[category['id']]), alike[0])
        content['categories'] = [
            category
            for category in content['categories']
            if category['name'] != name or category is kept
        ]
        moved = numbers - {kept['id']}
        for annotation in content['annotations']:
            if annotation['category_id'] in moved:
                annotation['category_id'] = kept['id']
                yield f'annotations moved to category {kept["id"]!r} of the name {name!r}'
        for _ in alike[1:]:
            yield f'more categories of the name {name!r} removed'


def _order_categories(content: Content, classes: Sequence[str]) -> Iterator[str]:
    if classes:
        place = {name: index for index, name in enumerate(classes)}
        ordered = sorted(content['categories'], key=lambda one: place.get(one['name'], len(place)))
        if ordered != content['categories']:
            content['categories'] = ordered
            yield 'list of categories put in the order of --classes'


def _fix_images(content: Content, folder: str | None) -> Iterator[str]:
    kept: dict[Any, dict] = {}
    for image in content['images']:
        twin = kept.get(image['id'])
        if twin is not None and twin['file_name'] == image['file_name']:
            yield 'images listed twice removed'
            continue
        kept[image['id'] if twin is None else object()] = image
        name = image['file_name']
        if '\\' in name and not os.path.exists(os.path.join(folder or '', name)):
            image['file_name'] = name.replace('\\', '/')
            yield 'names of images written with / in place of \\'
        for key in ('width', 'height'):
            if isinstance(image.get(key), str) and _as_number(image[key]) is not None:
                image[key] = _as_number(image[key])
                yield f'{key}s of images written as numbers'
        if folder is not None and not all(
            is_number(image.get(key)) and image[key] > 0 for key in ('width', 'height')
        ):
            found = look_at(os.path.join(folder, image['file_name']), whole=False)
            if not found.fault:
                image['width'], image['height'] = found.size(oriented=True)
                yield 'sizes of images read from their files'
    content['images'] = list(kept.values())


def _drop_lost(content: Content) -> Iterator[str]:
    for part, key in (('images', 'image_id'), ('categories', 'category_id')):
        known = {entry['id'] for entry in content[part]}
        kept = [one for one in content['annotations'] if one[key] in known]
        # Where none is known the reference is at fault, not the annotations.
        if kept:
            for _ in range(len(content['annotations']) - len(kept)):
                yield f'annotations whose {key} is not in the file removed'
            content['annotations'] = kept


def _fix_annotation(annotation: dict) -> Iterator[str]:
    segmentation = annotation.get('segmentation')
    if isinstance(segmentation, list) and segmentation:
        if all(is_number(one) for one in segmentation):
            segmentation = [segmentation]
            yield 'segmentations made lists of polygons'
        sound = [p for p in segmentation if is_polygon(p) and len(p) >= 6 and len(p) % 2 == 0]
        if len(sound) < len(segmentation):
            yield 'segmentations without polygons of fewer than 3 points'
        segmentation = annotation['segmentation'] = sound
    elif isinstance(segmentation, dict):
        counts = segmentation.get('counts')
        if isinstance(counts, str) and counts[:2] in ("b'", 'b"') and counts[-1:] == counts[1]:
            segmentation['counts'] = counts[2:-1].replace('\\\\', '\\')
            yield "run lengths without the b'' of Python's bytes"
    polygons = segmentation if isinstance(segmentation, list) else []
    box = annotation.get('bbox')
    if isinstance(box, list) and any(isinstance(side, str) for side in box):
        annotation['bbox'] = box = [_as_number(side) for side in box]
        yield 'boxes written as numbers'
    if not _is_box(box) and polygons:
        points = np.concatenate([np.reshape(part, (-1, 2)) for part in polygons])
        low, high = points.min(0), points.max(0)
        annotation['bbox'] = box = [*low.tolist(), *(high - low).tolist()]
        yield 'boxes computed from polygons'
    area = _as_number(annotation.get('area'))
    if not is_number(annotation.get('area')) or annotation['area'] <= 0:
        if area is None or area <= 0:
            area = sum(map(_polygon_area, polygons))
            area = area or (box[2] * box[3] if _is_box(box) else 0)
            yield 'areas computed from polygons or boxes'
        else:
            yield 'areas written as numbers'
        annotation['area'] = area
    crowd = annotation.get('iscrowd')
    if type(crowd) is not int or crowd not in (0, 1):
        text = str(crowd).strip().lower()
        annotation['iscrowd'] = int(text in ('1', '1.0', 'true', 'yes'))
        yield 'iscrowd written as 0 or 1'


def _number(content: Content) -> Iterator[str]:
    """Number the annotations from 1 where an id cannot be one."""
    values = [one.get('id') for one in content['annotations']]
    if all(type(value) is int and value > 0 for value in values) and len(set(values)) == len(
        values
    ):
        return
    for number, annotation in enumerate(content['annotations'], 1):
        annotation['id'] = number
        yield 'annotations numbered from 1'


def _polygon_area(part: list) -> float:
    """Return the area of a polygon by the shoelace formula."""
    x, y = np.reshape(part, (-1, 2)).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(map(is_number, box))


def _as_integer(text: Any) -> int | None:
    try:
        return int(text)
    except (TypeError, ValueError):
        return None


def _as_number(value: Any) -> Any:
    """Return a finite number, read from a text where it is one, else None."""
    if is_number(value):
        return value
    if not isinstance(value, str):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    if not np.isfinite(found):
        return None
    return int(found) if found.is_integer() else found
