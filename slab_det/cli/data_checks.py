"""Checks of data sets in COCO's format."""

import json
import mmap
import os
from collections.abc import Iterator, Sequence

from slab_det.errors import InputError, one_line

_PARTS = ('images', 'annotations', 'categories')
#: What mmdet and pycocotools read of every entry without asking whether it is there,
_NEEDED = dict(
    images=('id', 'file_name', 'height', 'width'),
    annotations=('id', 'image_id', 'category_id'),
    categories=('id', 'name'),
)
#: and of annotations that are not to be ignored.
_NEEDED_OF_BOXES = ('bbox', 'area')
#: Larger files are not parsed twice only to find out that they are sound.
_PARSE_BELOW = 64 * 2**20


def datasets_of(node, path: str) -> Iterator[tuple[str, dict]]:
    """Yields (setting, config) of every data set that reads an annotation file, inside any wrapper."""
    if isinstance(node, dict):
        if node.get('ann_file'):
            yield path, node
        else:
            yield from datasets_of(node.get('dataset'), f'{path}.dataset')
            yield from datasets_of(node.get('datasets'), f'{path}.datasets')
    elif isinstance(node, (list, tuple)):
        for index, one in enumerate(node):
            yield from datasets_of(one, f'{path}.{index}')


def check_dataset(path: str, dataset: dict, annotated: bool = True) -> None:
    """Checks one data set's ``data_root``, ``ann_file``, image folder and, where it is COCO, its content,
    of which the annotations may be absent unless ``annotated``."""
    if (
        _is_remote(dataset.get('data_root'))
        or _is_remote(dataset['ann_file'])
        or ((dataset.get('backend_args') or {}).get('backend', 'local') != 'local')
    ):
        return
    root = dataset.get('data_root') or ''
    if root and not os.path.isdir(root):
        raise InputError(
            f'{path}.data_root {root} is not a folder: put the data there, or name its place with '
            f'--cfg-options {path}.data_root=FOLDER (and likewise for the other data sets)'
        )
    # mmengine decides by a leading slash (and a drive letter) whether to join, as os.path.join does.
    ann_file = os.path.join(root, dataset['ann_file'])
    if not os.path.isfile(ann_file):
        raise InputError(
            f'{path}.ann_file {ann_file} is not a file: put the annotations there, or name them with '
            f'--cfg-options {path}.ann_file=FILE'
        )
    images = os.path.join(root, (dataset.get('data_prefix') or {}).get('img', ''))
    if images and not os.path.isdir(images):
        raise InputError(
            f'{path}.data_prefix.img {images} is not a folder: put the images there, or name their '
            f'place with --cfg-options {path}.data_prefix.img=FOLDER'
        )
    dataset_class = _class_of(dataset)
    if dataset_class is not None:
        classes = (dataset.get('metainfo') or {}).get('classes') or dataset_class.METAINFO.get(
            'classes'
        )
        check_annotations(
            f'{path}.ann_file', ann_file, images, classes, f'{path}.metainfo.classes', annotated
        )


def check_annotations(
    setting: str,
    path: str,
    images: str | None = None,
    classes: Sequence[str] | None = None,
    classes_setting: str = 'classes',
    annotated: bool = True,
) -> None:
    """Checks that ``path`` is a whole COCO file; of small files also that it fits classes and images.

    mmdet numbers the classes by the categories that it finds, so a class without a category would shift
    the labels of all that follow.
    """
    if not os.path.isfile(path):
        raise InputError(
            f'{setting} {path} is not a file: put the annotations there, or name them with '
            f'--cfg-options {setting}=FILE'
        )
    if os.path.getsize(path) > _PARSE_BELOW:
        _check_large(setting, path, annotated)
        return
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f'{setting} {path} is not COCO: it is no JSON ({one_line(error)}), give a whole '
            "annotation file in COCO's format"
        ) from error
    if not annotated and isinstance(content, dict):
        content.setdefault('annotations', [])
    _require_parts(
        setting,
        path,
        [
            part
            for part in _PARTS
            if not isinstance(content, dict) or not isinstance(content.get(part), list)
        ],
    )
    for part, needed in _NEEDED.items():
        _require_keys(setting, path, part, content[part], needed)
    if not content['images']:
        raise InputError(f'{setting} {path} lists no images: give a file that does')
    names = [
        category.get('name') for category in content['categories'] if isinstance(category, dict)
    ]
    absent = [name for name in classes or () if name not in names]
    if absent:
        raise InputError(
            f'{setting} {path} has no category {_few(absent)}, its categories are {_few(names)}: set '
            f"--cfg-options {classes_setting} (and the heads' num_classes) to the classes of the file"
        )
    lost = _not_in(images, [image['file_name'] for image in content['images']]) if images else []
    if lost:
        raise InputError(
            f'{setting} {path} names the image {lost[0]}, which is not in {images} ({len(lost)} of '
            f'{len(content["images"])} are not): set data_prefix.img to the folder of the images'
        )


def _check_large(setting: str, path: str, annotated: bool) -> None:
    with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:64].lstrip()[:1] != b'{' or content[-64:].rstrip()[-1:] != b'}':
            raise InputError(
                f'{setting} {path} is not COCO: it does not begin with {{ and end with }}, as a whole '
                "annotation file in COCO's format does"
            )
        absent = [part for part in _PARTS if content.find(b'"%b"' % part.encode()) < 0]
        _require_parts(
            setting, path, [part for part in absent if annotated or part != 'annotations']
        )


def _require_keys(
    setting: str, path: str, part: str, entries: list, needed: tuple[str, ...]
) -> None:
    for number, entry in enumerate(entries, 1):
        known = entry if isinstance(entry, dict) else {}
        boxes = _NEEDED_OF_BOXES if part == 'annotations' and not known.get('ignore') else ()
        absent = [key for key in needed + boxes if key not in known]
        if absent:
            shown = repr(entry) if len(repr(entry)) <= 80 else f'{entry!r:.76} ...'
            raise InputError(
                f'{setting} {path} is not COCO: number {number} of its {part}, {shown}, has no '
                f'{" and no ".join(absent)}: give it what it lacks or remove it'
            )


def _not_in(folder: str, names: Sequence[str]) -> list[str]:
    """The names, paths below ``folder``, of no entry. Folders are read once, which is quick on a network too."""
    entries: dict[str, set[str]] = {}
    lost = []
    for name in names:
        place, leaf = os.path.split(os.path.join(folder, name))
        if place not in entries:
            entries[place] = set(os.listdir(place)) if os.path.isdir(place) else set()
        # The second look is for file systems that do not tell upper case from lower.
        if leaf not in entries[place] and not os.path.isfile(os.path.join(place, leaf)):
            lost.append(name)
    return lost


def _require_parts(setting: str, path: str, absent: list[str]) -> None:
    if absent:
        raise InputError(
            f'{setting} {path} is not COCO: it has no list of {" and ".join(absent)}, give an '
            "annotation file in COCO's format"
        )


def _class_of(dataset: dict):
    """The data set's class where it reads COCO files the plain way, else None."""
    from mmdet.datasets import CocoDataset
    from mmdet.registry import DATASETS

    kind = dataset.get('type')
    found = DATASETS.get(kind) if isinstance(kind, str) else kind
    plain = (
        isinstance(found, type)
        and issubclass(found, CocoDataset)
        and (found.load_data_list is CocoDataset.load_data_list)
    )
    return found if plain else None


def _is_remote(path: str | None) -> bool:
    return path is not None and '://' in path


def _few(names: Sequence, most: int = 5) -> str:
    shown = ', '.join(repr(name) for name in names[:most])
    return (
        shown + (f' and {len(names) - most} more' if len(names) > most else '') if names else 'none'
    )
