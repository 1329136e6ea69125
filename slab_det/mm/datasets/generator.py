"""Write the built-in data set: a folder in COCO's layout, whole or not at all.

Layout::

    OUT/manifest.json                      how the folder was made, and the size of every file in it
    OUT/annotations/instances_train.json   COCO instances with run-length masks
    OUT/annotations/instances_val.json
    OUT/train/000001.png ...
    OUT/val/000001.png ...

and on request::

    OUT/annotations/panoptic_train.json, panoptic_val.json
    OUT/annotations/panoptic_train/000001.png ..., panoptic_val/000001.png ...
    OUT/stuffthingmaps/train/000001.png ..., val/000001.png ...

With ``layout='coco'`` the splits are called ``train2017`` and ``val2017``, and the files list
COCO's categories, so that configs for COCO run on it.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

from numpy.random import MT19937, RandomState, SeedSequence

from slab_det.errors import InputError, SlabDetError

from .categories import SHAPES, coco_categories
from .coco import InstanceWriter
from .panoptic import PanopticWriter, SemanticWriter, write_png
from .scenes import MIN_SIDE, draw_scene

MANIFEST = 'manifest.json'
# Raised with every change that alters a byte of the output, so that old folders are made anew.
FORMAT = 2
SPLITS = ('train', 'val')
#: The name of a split in each layout.
LAYOUTS = {'plain': '{}', 'coco': '{}2017'}


class DatasetError(SlabDetError):
    """The folder cannot be written; the message says why and what to do."""


def make_shapes_dataset(
    out: str,
    num_train: int = 600,
    num_val: int = 100,
    size: tuple[int, int] = (128, 192),
    seed: int = 0,
    panoptic: bool = False,
    semantic: bool = False,
    layout: str = 'plain',
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Write a training and a validation set of drawn shapes in COCO format.

    Image k of a split depends on ``seed``, ``size``, the split and k only, so a larger set starts
    with the images of a smaller one, and train and validation images differ.

    Args:
        out: folder to make. An existing one is kept when it holds exactly this set, made anew when
            this function made it with other arguments, and refused in any other case.
        num_train, num_val: images per split, at least 1.
        size: smallest and largest side in pixels; height and width are drawn separately.
        seed: a whole number of at least 0.
        panoptic: also write COCO's panoptic annotations; the backgrounds are its stuff.
        semantic: also write a map of the categories of all pixels per image.
        layout: ``'plain'``, or ``'coco'`` for the folder names and categories of COCO 2017, which
            needs mmdet.
        progress: called with (images done, images in all) after every image.

    Returns:
        True if the set was written, False if it was already there.

    Raises:
        InputError: an argument out of its range.
        DatasetError: ``out`` holds files that this function did not write, or cannot be written.
        ImportError: ``layout='coco'`` without mmdet.
    """
    arguments = _checked(num_train, num_val, size, seed)
    if layout not in LAYOUTS:
        raise InputError(f'layout: got {layout!r}, expected one of {", ".join(LAYOUTS)}.')
    arguments.update(panoptic=bool(panoptic), semantic=bool(semantic), layout=layout)
    out = os.path.abspath(out)
    if _is_made(out, arguments):
        return False
    # slab_det.files writes single files whole; this is a folder, written aside and swapped in.
    parent = os.path.dirname(out)
    try:
        os.makedirs(parent, exist_ok=True)
        temporary = tempfile.mkdtemp(prefix=f'.{os.path.basename(out)}.', dir=parent)
    except OSError as error:
        raise DatasetError(
            f'out: {out} cannot be written ({error.strerror}); choose a folder that can be '
            'written to.'
        ) from error
    try:
        made = os.path.join(temporary, 'new')
        os.mkdir(made)
        _write(made, arguments, progress)
        _move_into_place(made, out, os.path.join(temporary, 'old'))
    except OSError as error:
        raise DatasetError(
            f'out: writing {out} failed ({error.strerror}); nothing was left behind.'
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def _move_into_place(made: str, out: str, old: str) -> None:
    """Swap the finished folder in; what stood there before comes back if that fails."""
    replaces = os.path.isdir(out)
    if replaces:
        os.rename(out, old)
    try:
        os.rename(made, out)
    except OSError:
        if replaces:
            os.rename(old, out)
        raise


def _checked(num_train: int, num_val: int, size: tuple[int, int], seed: int) -> dict[str, Any]:
    for name, number in (('num_train', num_train), ('num_val', num_val)):
        if not isinstance(number, int) or number < 1:
            raise InputError(f'{name}: got {number!r}, expected a whole number of at least 1.')
    if (
        len(tuple(size)) != 2
        or not all(isinstance(side, int) for side in size)
        or not MIN_SIDE <= size[0] <= size[1]
    ):
        raise InputError(
            f'size: got {size!r}, expected the smallest and the largest side in whole '
            f'pixels, the smallest at least {MIN_SIDE}.'
        )
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f'seed: got {seed!r}, expected a whole number of at least 0.')
    return dict(num_train=num_train, num_val=num_val, size=list(size), seed=seed)


def _is_made(out: str, arguments: dict[str, Any]) -> bool:
    """Whether ``out`` holds exactly this set; False if it may be made, or made again.

    Raises:
        DatasetError: ``out`` was not made by this function, or was changed afterwards.
    """
    if not os.path.lexists(out):
        return False
    if not os.path.isdir(out) or os.path.islink(out):
        raise DatasetError(f'out: {out} exists and is not a folder; choose another place.')
    found = _file_sizes(out)
    if not found:
        return False
    try:
        with open(os.path.join(out, MANIFEST), encoding='utf-8') as file:
            manifest = json.load(file)
        expected = dict(manifest['files'])
        same = (manifest['generator'], manifest['format'], manifest['arguments']) == (
            'slab_det.mm.datasets',
            FORMAT,
            arguments,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f'out: {out} holds files that this generator did not make; choose an '
            'empty or new folder.'
        ) from error
    found.pop(MANIFEST, None)
    foreign = sorted(path for path in found if found[path] != expected.get(path))
    if foreign:
        raise DatasetError(
            f'out: {foreign[0]} in {out} was added or changed after the data set '
            'was made; remove that folder yourself or choose another one.'
        )
    return same and found == expected


def _file_sizes(folder: str) -> dict[str, int]:
    sizes = {}
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            sizes[os.path.relpath(path, folder).replace(os.sep, '/')] = os.lstat(path).st_size
    return sizes


def _write(
    folder: str, arguments: dict[str, Any], progress: Callable[[int, int], None] | None
) -> None:
    counts = [arguments[f'num_{split}'] for split in SPLITS]
    categories = coco_categories() if arguments['layout'] == 'coco' else SHAPES
    kinds = (
        [InstanceWriter]
        + [PanopticWriter] * arguments['panoptic']
        + ([SemanticWriter] * arguments['semantic'])
    )
    done = 0
    for split_index, count in enumerate(counts):
        split = LAYOUTS[arguments['layout']].format(SPLITS[split_index])
        os.mkdir(os.path.join(folder, split))
        writers = [kind(folder, split, categories) for kind in kinds]
        for image_index in range(count):
            # RandomState's stream is frozen by NumPy's policy; Generator's may change.
            rng = RandomState(MT19937(SeedSequence([arguments['seed'], split_index, image_index])))
            low, high = arguments['size']
            height, width = (int(side) for side in rng.randint(low, high + 1, size=2))
            scene = draw_scene(rng, height, width)
            file_name = f'{image_index + 1:06d}.png'
            write_png(os.path.join(folder, split, file_name), scene.image)
            for writer in writers:
                writer.add(file_name, scene)
            done += 1
            if progress is not None:
                progress(done, sum(counts))
        for writer in writers:
            writer.write()
    manifest = dict(
        generator='slab_det.mm.datasets',
        format=FORMAT,
        arguments=arguments,
        classes=[one.name for one in categories.things],
        files=dict(sorted(_file_sizes(folder).items())),
    )
    with open(os.path.join(folder, MANIFEST), 'w', encoding='utf-8', newline='\n') as file:
        json.dump(manifest, file, indent=1)
        file.write('\n')
