"""Image files against what an annotation file says of them."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from slab_det.errors import InputError, one_line
from slab_det.files import write_text

from .findings import Finding

#: EXIF's orientation, and its values that exchange width and height.
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)
#: Images whose headers are read before a training, spread over the file.
SAMPLE = 64


class Decoded(NamedTuple):
    """What an image file is.

    Attributes:
        width, height: in pixels, as stored; 0 where it cannot be read.
        orientation: of EXIF, 1 where it has none.
        fault: why it cannot be decoded, empty where it can.
    """

    width: int
    height: int
    orientation: int
    fault: str = ''

    def size(self, oriented: bool) -> tuple[int, int]:
        """Return width and height as decoded, turned by EXIF where ``oriented``."""
        turned = oriented and self.orientation in _TURNED
        return (self.height, self.width) if turned else (self.width, self.height)


def look_at(path: str | os.PathLike, whole: bool = True) -> Decoded:
    """Return size and orientation of an image, decoded to its end where ``whole``."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            orientation = _orientation(image)
            if whole:
                image.load()
        return Decoded(width, height, orientation)
    except Exception as error:  # what a decoder makes of a damaged file is not documented
        if isinstance(error, OSError) and error.filename is not None and error.errno:
            return Decoded(0, 0, 1, one_line(error))
        # Formats that OpenCV reads and Pillow does not.
        unknown = isinstance(error, UnidentifiedImageError) or not isinstance(error, OSError)
        pixels = cv2.imread(os.fspath(path)) if unknown else None
        if pixels is not None:
            return Decoded(pixels.shape[1], pixels.shape[0], 1)
        return Decoded(0, 0, 1, one_line(error).replace(repr(os.fspath(path)), 'it'))


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 where it has none or cannot be read, as OpenCV does."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # tags that are damaged leave the pixels as they are
        found = 1
    return found if found in range(1, 9) else 1


def sample_of(total: int, most: int = SAMPLE) -> list[int]:
    """Return at most ``most`` indices, spread evenly."""
    return np.unique(np.linspace(0, total - 1, min(total, most)).astype(int)).tolist()


def check_images(
    folder: str,
    names: Sequence[str],
    sizes: np.ndarray,
    oriented: bool = True,
    whole: bool = False,
    track: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> list[Finding]:
    """Compare image files with their stated sizes.

    Args:
        folder: of the images.
        names: paths of the images below it.
        sizes: ``(N, 2)`` stated width and height.
        oriented: the images are turned by EXIF's orientation when they are loaded.
        whole: decode every image; otherwise read the headers of a sample.
        track: yields what it is given and shows how far it is.
    """
    chosen = list(range(len(names))) if whole else sample_of(len(names))
    paths = [os.path.join(folder, names[index]) for index in chosen]
    results: Iterable[Decoded]
    if whole:
        results = _remembered(folder, paths, track)
    else:
        results = [look_at(path, whole=False) for path in paths]
    damaged, other = [], []
    turned = False
    for index, decoded in zip(chosen, results):
        if decoded.fault:
            damaged.append((index, f'{names[index]}: {decoded.fault}'))
            continue
        size = decoded.size(oriented)
        if size != tuple(sizes[index]):
            turned |= decoded.orientation != 1
            exif = f', EXIF orientation {decoded.orientation}' if decoded.orientation != 1 else ''
            other.append(
                (
                    index,
                    f'{names[index]} is {size[0]} x {size[1]}{exif}, the file says '
                    f'{sizes[index][0]:g} x {sizes[index][1]:g}',
                )
            )
    looked = f'{len(chosen):,} images' + ('' if whole else ' that were looked at')
    findings = []
    if damaged:
        findings.append(
            _finding(
                'image-damaged',
                f'{len(damaged):,} of {looked} cannot be decoded',
                damaged,
                True,
                f'replace or remove them from {folder} and the file',
            )
        )
    if other:
        why = ' (EXIF orientation is applied when an image is loaded)' if turned else ''
        findings.append(
            _finding(
                'image-decoded-size',
                f'{len(other):,} of {looked} have another width or height as decoded{why}, so '
                'that their boxes may lie on other pixels',
                other,
                False,
                'correct the sizes and boxes, or store the images turned and without EXIF',
            )
        )
    return findings


def _finding(kind: str, text: str, found: list, refused: bool, remedy: str) -> Finding:
    places = tuple(text for _, text in found[:3])
    return Finding(kind, text, places, refused, remedy, np.array([index for index, _ in found]))


def cache_folder() -> Path:
    """Return this package's folder in the user's cache."""
    base = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    return Path(base) / 'slab_det'


def _remembered(folder: str, paths: Sequence[str], track) -> list[Decoded]:
    """Return what each image is, from the user's cache where the file has not changed since."""
    digest = hashlib.sha256(os.path.abspath(folder).encode()).hexdigest()[:32]
    note = cache_folder() / 'images' / f'{digest}.json'
    known: dict[str, list] = {}
    try:
        known = json.loads(note.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        known = {}
    if not isinstance(known, dict):
        known = {}
    stamps = [_stamp(path) for path in paths]

    def one(place: int) -> Decoded:
        path = os.path.abspath(paths[place])
        entry = known.get(path)
        if isinstance(entry, list) and len(entry) == 6 and entry[:2] == stamps[place]:
            return Decoded(*entry[2:])
        return look_at(path)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(one, range(len(paths)))
        results = [result for _, result in zip(track(range(len(paths))), found)]
    fresh = {
        os.path.abspath(path): [*stamp, *result]
        for path, stamp, result in zip(paths, stamps, results)
        if stamp
    }
    if any(known.get(path) != entry for path, entry in fresh.items()):
        try:
            write_text(note, json.dumps({**known, **fresh}), 'the cache')
        except InputError as error:  # the results are right, only the next run is not faster
            print(f'{error}; set XDG_CACHE_HOME to a folder that can be written')
    return results


def _stamp(path: str) -> list[int]:
    try:
        status = os.stat(path)
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]
