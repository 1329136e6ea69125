"""Panoptic and semantic annotations of scenes."""

import os

import cv2
import numpy as np

from .categories import SHAPES, Categories
from .coco import JsonWriter, mask_box
from .scenes import Scene

#: Odd, so that its multiples below 2**24 all differ; large, so that the first ones are colours that
#: can be told apart and all three channels are in use.
_ID_STEP = 6700417


def write_png(path: str, image: np.ndarray) -> None:
    """Write an image, uint8 (H, W) or (H, W, 3) in blue, green, red.

    Raises:
        OSError: it cannot be encoded or written.
    """
    ok, content = cv2.imencode('.png', image)
    if not ok:
        raise OSError(0, 'OpenCV could not encode it as PNG', path)
    with open(path, 'wb') as file:
        file.write(content.tobytes())


def segment_map(scene: Scene) -> np.ndarray:
    """Return one number per segment: thing k is k, the backgrounds follow the last thing.

    Returns:
        int64 (H, W), at least 1.
    """
    things = len(scene.labels)
    return np.where(scene.instances > 0, scene.instances, things + 1 + scene.stuff.astype(np.int64))


class PanopticWriter(JsonWriter):
    """Writes COCO's panoptic format: ``annotations/panoptic_{split}.json`` and, in a folder beside
    it, a PNG per image, in which a segment's id is ``red + 256 * green + 256**2 * blue``.

    Every pixel belongs to a segment: the visible part of a thing, or all of one kind of background.
    """

    def __init__(self, folder: str, split: str, categories: Categories = SHAPES) -> None:
        super().__init__(folder, split, categories)
        self._maps = os.path.join(folder, 'annotations', f'panoptic_{split}')
        os.makedirs(self._maps, exist_ok=True)

    def add(self, file_name: str, scene: Scene) -> None:
        """Add one image and write its map."""
        segments, things = segment_map(scene), len(scene.labels)
        ids = segments * _ID_STEP % 2**24
        infos = []
        for number in np.unique(segments).tolist():
            mask = segments == number
            is_thing = number <= things
            infos.append(
                dict(
                    id=number * _ID_STEP % 2**24,
                    category_id=(
                        self.categories.thing_id(scene.labels[number - 1])
                        if is_thing
                        else self.categories.stuff_id(number - things - 1)
                    ),
                    area=int(mask.sum()),
                    bbox=mask_box(mask),
                    iscrowd=0,
                )
            )
        self.annotations.append(
            dict(
                image_id=self.add_image(file_name, scene), file_name=file_name, segments_info=infos
            )
        )
        channels = [ids >> 16 & 255, ids >> 8 & 255, ids & 255]  # blue, green, red
        write_png(os.path.join(self._maps, file_name), np.stack(channels, -1).astype(np.uint8))

    def write(self) -> None:
        """Write the annotations of everything added."""
        kinds = ((self.categories.things, 'shape', 1), (self.categories.stuff, 'background', 0))
        self.write_file(
            'panoptic',
            [
                dict(id=one.id, name=one.name, supercategory=above, isthing=isthing)
                for some, above, isthing in kinds
                for one in some
            ],
        )


class SemanticWriter:
    """Writes ``stuffthingmaps/{split}/NAME.png``, whose values are category id - 1, as COCO's.

    Args:
        folder: of the data set.
        split: such as ``train``.
        categories: whose numbers the maps hold.
    """

    def __init__(self, folder: str, split: str, categories: Categories = SHAPES) -> None:
        self._maps = os.path.join(folder, 'stuffthingmaps', split)
        os.makedirs(self._maps, exist_ok=True)
        self.categories = categories

    def add(self, file_name: str, scene: Scene) -> None:
        """Write the map of one image."""
        stuff = [self.categories.stuff_id(i) - 1 for i in range(len(self.categories.stuff_of))]
        things = [self.categories.thing_id(label) - 1 for label in scene.labels]
        # Index 0 of the instance map is background.
        labels = np.where(
            scene.instances > 0,
            np.array([0, *things])[scene.instances],
            np.array(stuff)[scene.stuff],
        )
        write_png(os.path.join(self._maps, file_name), labels.astype(np.uint8))

    def write(self) -> None:
        """Nothing is left to write: every image's map stands for itself."""
