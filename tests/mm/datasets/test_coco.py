import json

import numpy as np
import pytest
from numpy.random import RandomState
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from slab_det.mm.datasets import THING_CLASSES, draw_scene
from slab_det.mm.datasets.coco import InstanceWriter, encode_rle


@pytest.mark.parametrize(
    'mask, counts',
    [
        ([[0, 0], [0, 0]], [4]),
        ([[1, 1], [1, 1]], [0, 4]),
        ([[1, 0], [0, 1]], [0, 1, 2, 1]),
        ([[0, 1, 1], [0, 0, 1]], [2, 1, 1, 2]),  # down the columns
    ],
)
def test_run_lengths_of_small_masks(mask, counts):
    assert encode_rle(np.array(mask, bool)) == dict(size=list(np.shape(mask)), counts=counts)


def test_pycocotools_decodes_random_masks_to_the_same_pixels():
    rng = RandomState(0)
    for _ in range(50):
        height, width = rng.randint(1, 40, size=2)
        mask = rng.uniform(size=(height, width)) < rng.uniform()
        decoded = mask_utils.decode(mask_utils.frPyObjects(encode_rle(mask), height, width))
        assert np.array_equal(decoded.astype(bool), mask)


def test_annotations_describe_the_visible_pixels(tmp_path):
    writer = InstanceWriter(str(tmp_path), 'val')
    scenes = [draw_scene(RandomState(i), 90, 110) for i in range(12)]
    for index, scene in enumerate(scenes):
        writer.add(f'{index}.png', scene)
    writer.write()

    coco = COCO(str(tmp_path / 'annotations' / 'instances_val.json'))
    assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == list(THING_CLASSES)
    assert len(coco.imgs) == len(scenes)
    assert len(coco.anns) == sum(len(scene.labels) for scene in scenes)
    for image_id, scene in zip(sorted(coco.imgs), scenes):
        image = coco.imgs[image_id]
        assert (image['height'], image['width']) == scene.instances.shape
        drawn = np.zeros_like(scene.instances)
        for index, annotation in enumerate(coco.imgToAnns[image_id], start=1):
            mask = coco.annToMask(annotation)
            assert annotation['area'] == mask.sum() > 0
            encoded = mask_utils.encode(np.asfortranarray(mask))
            assert annotation['bbox'] == mask_utils.toBbox(encoded).tolist()
            assert annotation['category_id'] == scene.labels[index - 1] + 1
            assert annotation['iscrowd'] == 0
            assert not drawn[mask > 0].any(), 'masks of one picture overlap'
            drawn += index * mask.astype(drawn.dtype)
        assert np.array_equal(drawn, scene.instances)


def test_identifiers_are_unique(tmp_path):
    writer = InstanceWriter(str(tmp_path), 'train')
    for index in range(5):
        writer.add(f'{index}.png', draw_scene(RandomState(index), 70, 70))
    writer.write()
    content = json.loads((tmp_path / 'annotations' / 'instances_train.json').read_text())
    for key in ('images', 'annotations', 'categories'):
        ids = [entry['id'] for entry in content[key]]
        assert ids == list(range(1, len(ids) + 1))
