"""COCO instance annotations of scenes."""

import json
import os
from typing import Any

import cv2
import numpy as np

from .categories import SHAPES, Categories
from .scenes import Scene


def encode_rle(mask: np.ndarray) -> dict[str, list[int]]:
    """Return the run lengths of a mask in COCO's uncompressed form.

    Args:
        mask: bool (H, W).

    Returns:
        ``{'size': [H, W], 'counts': [...]}``, runs of 0 and 1 in turn, down the columns, starting
        with the run of 0 (of length 0 if the first pixel is 1).
    """
    pixels = np.asarray(mask, bool).ravel(order='F')
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    counts = np.diff(np.concatenate(([0], changes, [pixels.size]))).tolist()
    if pixels[0]:
        counts.insert(0, 0)
    return dict(size=[int(n) for n in mask.shape], counts=counts)


def mask_box(mask: np.ndarray) -> list[int]:
    """Return left, top, width and height in pixels of a mask that is not empty."""
    return list(cv2.boundingRect(mask.astype(np.uint8)))


class JsonWriter:
    """Collects images and annotations for one file of COCO's format,
    ``annotations/{kind}_{split}.json``.

    A kind of annotations is a class with this constructor, ``add(file_name, scene)`` and
    ``write()``.

    Args:
        folder: of the data set.
        split: such as ``train``.
        categories: what the file lists.
    """

    def __init__(self, folder: str, split: str, categories: Categories = SHAPES) -> None:
        self.folder = folder
        self.split = split
        self.categories = categories
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add_image(self, file_name: str, scene: Scene) -> int:
        """Add one image; return its id."""
        height, width = scene.instances.shape
        image_id = len(self.images) + 1
        self.images.append(dict(id=image_id, file_name=file_name, height=height, width=width))
        return image_id

    def write_file(self, kind: str, categories: list[dict[str, Any]]) -> None:
        """Write the annotations of everything added, and the categories that they name."""
        content = dict(
            info=dict(description=f'slab-det shapes, {self.split}'),
            licenses=[],
            images=self.images,
            annotations=self.annotations,
            categories=categories,
        )
        folder = os.path.join(self.folder, 'annotations')
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, f'{kind}_{self.split}.json')
        with open(path, 'w', encoding='utf-8', newline='\n') as file:
            json.dump(content, file, separators=(',', ':'))
            file.write('\n')


class InstanceWriter(JsonWriter):
    """Writes the instances of scenes to ``annotations/instances_{split}.json``."""

    def add(self, file_name: str, scene: Scene) -> None:
        """Add one image with its things: bbox, area and segmentation of the visible part each."""
        image_id = self.add_image(file_name, scene)
        for index, label in enumerate(scene.labels, start=1):
            mask = scene.instances == index
            self.annotations.append(
                dict(
                    id=len(self.annotations) + 1,
                    image_id=image_id,
                    category_id=self.categories.thing_id(label),
                    bbox=mask_box(mask),
                    area=int(mask.sum()),
                    segmentation=encode_rle(mask),
                    iscrowd=0,
                )
            )

    def write(self) -> None:
        """Write the annotations of everything added."""
        self.write_file(
            'instances',
            [
                dict(id=one.id, name=one.name, supercategory='shape')
                for one in self.categories.things
            ],
        )
