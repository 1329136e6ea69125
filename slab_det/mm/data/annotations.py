"""Content of annotation files in COCO's format, checked as mmdet, mmcv and pycocotools read it."""

import gc
import json
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from slab_det.errors import InputError, one_line

from .classes import class_findings
from .columns import ABSENT, boxes, column, ids, is_number, numbers, repeated, where
from .findings import Finding, Report, Use
from .masks import check_masks
from .rules import RULES, TRAIN, Rule

PARTS = ('images', 'annotations', 'categories')
#: Limits of COCO's small and medium objects, in pixels of area.
SMALL, MEDIUM = 32**2, 96**2
_NEEDED = dict(
    images=('id', 'file_name', 'height', 'width'),
    annotations=('id', 'image_id', 'category_id'),
    categories=('id', 'name'),
)


def read_annotations(
    path: str, setting: str, annotated: bool = True, encoding: str = 'utf-8'
) -> dict[str, Any]:
    """Return the content of a COCO file.

    Args:
        path: the file.
        setting: its name in errors.
        annotated: it must have a list of annotations.
        encoding: of the text.

    Raises:
        InputError: it is missing, not JSON, or lacks a list of COCO's.
    """
    if not os.path.isfile(path):
        raise InputError(
            f'{setting} {path} is not a file: put the annotations there, or name them with '
            f'--cfg-options {setting}=FILE'
        )
    collecting = gc.isenabled()
    gc.disable()  # millions of new objects, none of them garbage
    try:
        with open(path, encoding=encoding) as file:
            content = json.load(file)
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(
            f'{setting} {path} is not COCO: it is no JSON ({one_line(error)}), give a whole '
            "annotation file in COCO's format"
        ) from error
    finally:
        if collecting:
            gc.enable()
    if not annotated and isinstance(content, dict):
        content.setdefault('annotations', [])
    absent = [
        part
        for part in PARTS
        if not isinstance(content, dict) or not isinstance(content.get(part), list)
    ]
    if absent:
        raise InputError(
            f'{setting} {path} is not COCO: it has no list of {" and ".join(absent)}, give an '
            "annotation file in COCO's format"
        )
    if not content['images']:
        raise InputError(f'{setting} {path} lists no images: give a file that does')
    return content


class Annotations:
    """An annotation file, whose faults are looked for once and judged for every use.

    Args:
        path: the file.
        content: what :func:`read_annotations` returns.
        panoptic: annotations hold ``segments_info``, which are checked as annotations.
    """

    def __init__(self, path: str, content: dict[str, Any], panoptic: bool = False) -> None:
        self.path = path
        self.panoptic = panoptic
        self.faults: dict[str, np.ndarray] = {}
        self.images = self._entries('images', content['images'])
        self.categories = self._entries('categories', content['categories'])
        self.annotations = self._entries(
            'annotations', _segments(content['annotations']) if panoptic else content['annotations']
        )
        gc_was = gc.isenabled()
        gc.disable()
        try:
            self._check_images()
            self._check_categories()
            self._check_references()
            self._check_boxes()
        finally:
            if gc_was:
                gc.enable()

    def _note(self, kind: str, indices: Sequence[int] | np.ndarray) -> None:
        if len(indices):
            self.faults[kind] = np.asarray(indices, int)

    def _note_mixed(self, kind: str, values: list) -> None:
        texts = [type(one) is str for one in values]
        if not all(texts):
            self._note(kind, where(texts))

    def _entries(self, part: str, entries: list) -> list[dict]:
        """Return the entries, an empty one in place of what is not an object."""
        if set(map(type, entries)) - {dict}:
            entries = [entry if type(entry) is dict else {} for entry in entries]
        needed = _NEEDED[part]
        self._note(
            f'{_singular(part)}-entry',
            [
                index
                for index, entry in enumerate(entries)
                if not all(key in entry for key in needed)
            ],
        )
        return entries

    def _check_images(self) -> None:
        self.image_ids, bad = ids(column(self.images, 'id'))
        lacking = set(self.faults.get('image-entry', ()))
        self._note('image-id', [index for index in bad if index not in lacking])
        self._note('image-id-twice', repeated(self.image_ids))
        self._note_mixed('image-id-mixed', self.image_ids)
        self.names = column(self.images, 'file_name')
        if set(map(type, self.names)) - {str} or '' in self.names:
            self._note(
                'image-name',
                [
                    index
                    for index, name in enumerate(self.names)
                    if (type(name) is not str or not name) and index not in lacking
                ],
            )
        named = [name if type(name) is str else object() for name in self.names]
        self._note('image-name-twice', repeated(named))
        self.sizes = np.stack(
            [numbers(column(self.images, key)) for key in ('width', 'height')], axis=1
        )
        with np.errstate(invalid='ignore'):
            unknown = np.isnan(self.sizes).any(1)
            self._note('image-size', [index for index in where(unknown) if index not in lacking])
            self._note('image-size-zero', where((self.sizes <= 0).any(1)))
            self._note('image-size-fraction', where((self.sizes % 1 > 0).any(1)))

    def _check_categories(self) -> None:
        self.category_ids, bad = ids(column(self.categories, 'id'))
        lacking = set(self.faults.get('category-entry', ()))
        self._note('category-id', [index for index in bad if index not in lacking])
        self._note_mixed('category-id-mixed', self.category_ids)
        self.category_names = column(self.categories, 'name')

    def _check_references(self) -> None:
        lacking = set(self.faults.get('annotation-entry', ()))
        self.annotation_ids, bad = ids(
            range(len(self.annotations)) if self.panoptic else column(self.annotations, 'id')
        )
        self._note('annotation-id', [index for index in bad if index not in lacking])
        self._note('annotation-id-twice', repeated(self.annotation_ids))
        if not self.panoptic:
            kinds = set(map(type, self.annotation_ids))
            if str in kinds:
                self._note('annotation-id-text', where([_is_word(i) for i in self.annotation_ids]))
            if 0 in set(self.annotation_ids):
                self._note('annotation-id-zero', [self.annotation_ids.index(0)])
        self.image_of, bad_images = _lookup(column(self.annotations, 'image_id'), self.image_ids)
        self.category_of, bad_categories = _lookup(
            column(self.annotations, 'category_id'), self.category_ids
        )
        wrong = sorted({*bad_images.tolist(), *bad_categories.tolist()} - lacking)
        self._note('reference', wrong)
        judged = np.ones(len(self.annotations), bool)
        judged[list(lacking) + wrong] = False
        self._note('image-unknown', where((self.image_of < 0) & judged))
        kind = 'category-unknown-panoptic' if self.panoptic else 'category-unknown'
        self._note(kind, where((self.category_of < 0) & judged))

    def _check_boxes(self) -> None:
        found = column(self.annotations, 'ignore')
        self.ignored = np.fromiter(
            (one is not ABSENT and bool(one) for one in found), bool, len(found)
        )
        self._note('ignored', where(self.ignored))
        self.boxes = boxes(column(self.annotations, 'bbox'))
        areas = column(self.annotations, 'area')
        self.areas = numbers(areas)
        # mmdet skips what is to be ignored before it looks at the box.
        self._note('box', where(np.isnan(self.boxes[:, 0]) & ~self.ignored))
        self._note('area', where(np.isnan(self.areas) & ~self.ignored))
        self._check_crowds(column(self.annotations, 'iscrowd'))
        left, top, width, height = self.boxes.T
        size = self.sizes[self.image_of] if len(self.sizes) else np.empty((0, 2))
        with np.errstate(invalid='ignore', over='ignore'):
            right, bottom = left + width, top + height
            across = np.minimum(right, size[:, 0]) - np.maximum(left, 0)
            down = np.minimum(bottom, size[:, 1]) - np.maximum(top, 0)
            judged = (self.image_of >= 0) & ~self.ignored & ~np.isnan(self.boxes[:, 0])
            outside = judged & ~((across > 0) & (down > 0))
            empty = judged & ~outside & (self.areas <= 0)
            small = judged & ~outside & ~empty & ((width < 1) | (height < 1))
            self.kept = judged & ~outside & ~empty & ~small & (self.category_of >= 0)
            beyond = (left < -1) | (top < -1) | (right > size[:, 0] + 1) | (bottom > size[:, 1] + 1)
            large = self.areas > 1.05 * width * height + 1
        self._note('box-outside', where(outside))
        self._note('area-zero', where(empty))
        self._note('box-small', where(small))
        self._note('box-over-edge', where(self.kept & beyond))
        self._note('area-large', where(self.kept & large))

    def _check_crowds(self, found: list) -> None:
        kinds = set(map(type, found))
        self.crowd = np.zeros(len(found), bool)
        if kinds <= {int} and set(found) <= {0, 1}:
            self.crowd = np.array(found, bool)
            return
        self._note('crowd-missing', [index for index, one in enumerate(found) if one is ABSENT])
        bad, odd = [], []
        for index, one in enumerate(found):
            if one is ABSENT or type(one) in (int, float, bool) and one in (0, 1):
                self.crowd[index] = one is not ABSENT and bool(one)
                continue
            (odd if is_number(one) or _is_integer_text(one) else bad).append(index)
            self.crowd[index] = bool(one)
        self._note('crowd', bad)
        self._note('crowd-odd', odd)

    @cached_property
    def mask_faults(self) -> dict[str, np.ndarray]:
        """Faulty segmentations of annotations that are kept, looked at only where masks are
        used."""
        wanted = where(self.kept)
        values = column(self.annotations, 'segmentation')
        if len(wanted) < len(values):
            values = [values[index] for index in wanted]
        values = [None if value is ABSENT else value for value in values]
        size = self.sizes[self.image_of[wanted]]
        found = check_masks(values, size[:, 1], size[:, 0])
        return {kind: wanted[indices] for kind, indices in found.items()}

    def report(self, use: Use) -> Report:
        """Judge the file for one use."""
        findings = [
            self._finding(RULES[kind], kind, indices, use)
            for kind, indices in self.faults.items()
            if not RULES[kind].told or use.roles & {*RULES[kind].told, *RULES[kind].fatal}
        ]
        if any('masks' in role for role in use.roles) and not self.panoptic:
            findings += [
                self._finding(RULES[kind], kind, indices, use)
                for kind, indices in self.mask_faults.items()
                if use.roles & set(RULES[kind].told)
            ]
        classes, label_of, found = class_findings(self, use)
        findings += found
        labels = np.where(self.kept, label_of[self.category_of], -1)
        kept = labels >= 0
        images_kept = self._images_kept(use, label_of)
        kept &= images_kept[self.image_of]
        findings += self._of_nothing(use, kept, images_kept)
        if use.images is not None and 'image-entry' not in self.faults:
            findings += self._lost(use.images)
        band = np.digitize(self.areas[kept], (SMALL, MEDIUM))
        per_class = np.zeros((len(classes), 3), int)
        np.add.at(per_class, (labels[kept], band), 1)
        return Report(
            self.path,
            use,
            len(self.images),
            int(images_kept.sum()),
            len(self.annotations),
            int(kept.sum()),
            classes,
            per_class,
            findings,
        )

    def _images_kept(self, use: Use, label_of: np.ndarray) -> np.ndarray:
        """Return which images remain: mmdet's ``filter_cfg`` and mmengine's ``indices``."""
        kept = np.ones(len(self.images), bool)
        if TRAIN in use.roles:
            if not use.keep_empty:
                # mmdet asks for an annotation of a class, whether or not its box is kept.
                marked = (label_of[self.category_of] >= 0) & (self.image_of >= 0)
                kept = np.bincount(self.image_of[marked], minlength=len(kept)) > 0
            if use.min_size:
                kept &= self.sizes.min(1) >= use.min_size
        order = where(kept)
        if isinstance(use.indices, int):
            order = order[: use.indices] if use.indices >= 0 else order[use.indices :]
        elif isinstance(use.indices, (list, tuple)):
            order = order[[i for i in use.indices if -len(order) <= i < len(order)]]
        chosen = np.zeros(len(kept), bool)
        chosen[order] = True
        return chosen

    def _of_nothing(self, use: Use, kept: np.ndarray, images_kept: np.ndarray) -> Iterable[Finding]:
        """Yield what leaves nothing to train on or to compare with."""
        total = len(self.annotations)
        if total and not (self.image_of >= 0).any() and 'annotation-entry' not in self.faults:
            yield Finding(
                'no-image',
                f'no annotation belongs to an image of the file: image_id is '
                f'{self.annotations[0].get("image_id")!r}, the id of an image is '
                f'{self.images[0].get("id")!r}',
                (),
                True,
                'write both as numbers, as tools/check_data.py --ann FILE --fix NEW.json does',
            )
        elif total and not (self.category_of >= 0).any() and 'annotation-entry' not in self.faults:
            known = self.categories[0].get('id') if self.categories else None
            yield Finding(
                'no-category',
                'no annotation belongs to a category of the file: category_id is '
                f'{self.annotations[0].get("category_id")!r}, the id of a category is {known!r}',
                (),
                True,
                'write both as numbers, as tools/check_data.py --ann FILE --fix NEW.json does',
            )
        if TRAIN not in use.roles:
            return
        if not images_kept.any():
            yield Finding(
                'no-images',
                f'none of the {len(self.images)} images remains, their annotations or sizes do not '
                'pass filter_cfg',
                (),
                True,
                'correct the annotations, or set filter_cfg=None',
            )
        elif total and not kept.any():
            yield Finding(
                'nothing',
                f'none of the {total} annotations remains under the rules of mmdet, the training '
                'would see no box',
                (),
                True,
                'correct what is said of them, or give a file whose annotations are kept '
                f'(tools/check_data.py --ann {self.path} shows them)',
            )
        elif total and self.crowd[kept].all():
            yield Finding(
                'all-crowd',
                f'all {int(kept.sum())} annotations that remain are marked as crowds '
                f'(iscrowd={self.annotations[where(kept)[0]].get("iscrowd")!r}), which are ignored '
                'in training',
                (),
                True,
                'set iscrowd to 0 where one object is meant',
            )

    def _lost(self, folder: str) -> Iterable[Finding]:
        lost = not_in(folder, [name if type(name) is str else '' for name in self.names])
        if lost:
            back = any('\\' in self.names[index] for index in lost[:3])
            yield Finding(
                'image-lost',
                f'names the image {self.names[lost[0]]}, which is not in {folder} '
                f'({len(lost)} of {len(self.names)} are not)',
                (),
                True,
                'set data_prefix.img to the folder of the images'
                + (', and write / in place of \\ in the names' if back else ''),
                np.array(lost),
            )

    def _finding(self, rule: Rule, kind: str, indices: np.ndarray, use: Use) -> Finding:
        total = len(getattr(self, rule.part))
        images = indices if rule.part == 'images' else np.empty(0, int)
        if rule.part == 'annotations':
            images = np.unique(self.image_of[indices])
            images = images[images >= 0]
        return Finding(
            kind,
            f'{len(indices):,} of {total:,} {rule.part} {rule.text}',
            tuple(self._place(rule, int(index)) for index in indices[:3]),
            bool(use.roles & set(rule.fatal)),
            rule.remedy.format(path=self.path),
            images,
        )

    def _place(self, rule: Rule, index: int) -> str:
        entry = getattr(self, rule.part)[index]
        word = _singular(rule.part)
        if rule.text.startswith('lack '):
            absent = [key for key in _NEEDED[rule.part] if key not in entry]
            return f'number {index + 1}, {_short(entry)}, has no {" and no ".join(absent)}'
        text = f'{word} {_short(entry.get("id"))}'
        if rule.part == 'annotations' and self.image_of[index] >= 0:
            text += f' of {_short(self.names[self.image_of[index]])}'
        elif rule.part == 'images':
            text += f', {_short(entry.get("file_name"))}'
        if rule.field in entry and rule.field != 'id':
            text += f': {rule.field} {_short(entry[rule.field])}'
        elif rule.field == 'width':
            text += f': {_short(entry.get("width"))} x {_short(entry.get("height"))}'
        return text


def not_in(folder: str, names: Sequence[str]) -> list[int]:
    """Return the indices of names, paths below ``folder``, of no file. Folders are read once, which
    is quick on a network too."""
    entries: dict[str, set[str]] = {}
    lost = []
    for index, name in enumerate(names):
        place, leaf = os.path.split(os.path.join(folder, name))
        if place not in entries:
            entries[place] = set(os.listdir(place)) if os.path.isdir(place) else set()
        # The second look is for file systems that do not tell upper case from lower.
        if leaf not in entries[place] and not os.path.isfile(os.path.join(place, leaf)):
            lost.append(index)
    return lost


def _segments(annotations: list) -> list[dict]:
    """Return the segments of a panoptic file, each with the id of its image."""
    found: list[dict] = []
    for one in annotations:
        segments = one.get('segments_info') if type(one) is dict else None
        if type(segments) is not list or 'image_id' not in one:
            found.append({})
            continue
        found += [
            {'iscrowd': 0, **segment, 'image_id': one['image_id']} if type(segment) is dict else {}
            for segment in segments
        ]
    return found


def _lookup(references: list, known: list) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of what each reference means, -1 for nothing, and those that are no ids."""
    references, bad = ids(references)
    places = {one: index for index, one in enumerate(known)}
    return (
        np.fromiter((places.get(one, -1) for one in references), np.int64, len(references)),
        bad,
    )


def _is_word(value: Any) -> bool:
    """Return whether an id is a text that numpy cannot store as a number."""
    try:
        return type(value) is str and not np.isfinite(float(value))
    except ValueError:
        return True


def _is_integer_text(value: Any) -> bool:
    try:
        return type(value) is str and int(value) is not None
    except ValueError:
        return False


def _singular(part: str) -> str:
    return 'category' if part == 'categories' else part[:-1]


def _short(value: Any, most: int = 60) -> str:
    shown = value if type(value) is str else repr(value)
    return shown if len(shown) <= most else f'{shown[: most - 4]} ...'
