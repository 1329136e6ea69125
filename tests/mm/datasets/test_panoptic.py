import json

import cv2
import numpy as np
import pytest
from mmdet.registry import DATASETS
from numpy.random import RandomState

from slab_det.mm.datasets import STUFF_CLASSES, THING_CLASSES, draw_scene, make_shapes_dataset
from slab_det.mm.datasets.categories import SHAPES
from slab_det.mm.datasets.panoptic import PanopticWriter, SemanticWriter


@pytest.fixture(scope='module')
def scenes():
    return [draw_scene(RandomState(i), 80, 100) for i in range(8)]


def written(writer_class, folder, scenes):
    writer = writer_class(str(folder), 'val')
    for index, scene in enumerate(scenes):
        writer.add(f'{index}.png', scene)
    writer.write()


def names_of(scene):
    """The class of every pixel, from the scene alone."""
    names = np.array(STUFF_CLASSES, object)[scene.stuff]
    for index, label in enumerate(scene.labels, start=1):
        names[scene.instances == index] = THING_CLASSES[label]
    return names


def test_segments_cover_every_pixel_with_its_class_and_every_thing_once(tmp_path, scenes):
    written(PanopticWriter, tmp_path, scenes)
    content = json.loads((tmp_path / 'annotations/panoptic_val.json').read_text())
    category = {one['id']: one for one in content['categories']}
    assert [one['name'] for one in content['categories'] if one['isthing']] == list(THING_CLASSES)
    assert len(content['images']) == len(content['annotations']) == len(scenes)
    for scene, image, annotation in zip(scenes, content['images'], content['annotations']):
        assert annotation['image_id'] == image['id']
        assert annotation['file_name'] == image['file_name']
        blue, green, red = np.moveaxis(
            cv2.imread(str(tmp_path / 'annotations/panoptic_val' / annotation['file_name'])).astype(
                int
            ),
            2,
            0,
        )
        ids = red + 256 * green + 256**2 * blue  # COCO's definition
        infos = annotation['segments_info']
        assert set(np.unique(ids)) == {info['id'] for info in infos} and 0 not in ids
        found = np.empty(ids.shape, object)
        things = 0
        for info in infos:
            mask = ids == info['id']
            rows, columns = np.nonzero(mask)
            assert info['area'] == mask.sum() and info['iscrowd'] == 0
            assert info['bbox'] == [
                columns.min(),
                rows.min(),
                np.ptp(columns) + 1,
                np.ptp(rows) + 1,
            ]
            found[mask] = category[info['category_id']]['name']
            if category[info['category_id']]['isthing']:
                things += 1
                assert len(np.unique(scene.instances[mask])) == 1
        assert np.array_equal(found, names_of(scene))
        assert things == len(scene.labels)


def test_semantic_maps_hold_category_id_less_one(tmp_path, scenes):
    written(SemanticWriter, tmp_path, scenes)
    by_value = {one.id - 1: one.name for one in (*SHAPES.things, *SHAPES.stuff)}
    for index, scene in enumerate(scenes):
        values = cv2.imread(str(tmp_path / f'stuffthingmaps/val/{index}.png'), cv2.IMREAD_UNCHANGED)
        assert values.dtype == np.uint8 and values.shape == scene.stuff.shape
        assert np.array_equal(np.vectorize(by_value.get)(values), names_of(scene).astype(str))


def test_mmdet_reads_the_panoptic_file_with_coco_names(tmp_path):
    make_shapes_dataset(
        tmp_path / 'coco', 2, 1, (64, 80), panoptic=True, semantic=True, layout='coco'
    )
    dataset = DATASETS.build(
        dict(
            type='CocoPanopticDataset',
            data_root=str(tmp_path / 'coco'),
            ann_file='annotations/panoptic_train2017.json',
            data_prefix=dict(img='train2017/', seg='annotations/panoptic_train2017/'),
        )
    )
    instances = DATASETS.build(
        dict(
            type='CocoDataset',
            data_root=str(tmp_path / 'coco'),
            ann_file='annotations/instances_train2017.json',
            data_prefix=dict(img='train2017/', seg='stuffthingmaps/train2017/'),
        )
    )
    assert len(dataset) == len(instances) == 2
    names = dict(disk='frisbee', box='book', triangle='pizza', star='kite', ring='donut')
    for index in range(2):
        one, other = dataset[index], instances[index]
        labels = [instance['bbox_label'] for instance in one['instances']]
        assert labels == [instance['bbox_label'] for instance in other['instances']]
        assert {dataset.metainfo['classes'][label] for label in labels} <= set(names.values())
        stuff = [info['category'] for info in one['segments_info'] if not info['is_thing']]
        assert stuff and min(stuff) >= 80
        assert cv2.imread(one['seg_map_path']) is not None
        assert cv2.imread(other['seg_map_path']) is not None


def test_numbers_of_things_are_those_of_coco(tmp_path):
    make_shapes_dataset(tmp_path / 'coco', 1, 1, (64, 80), layout='coco')
    content = json.loads((tmp_path / 'coco/annotations/instances_val2017.json').read_text())
    ids = {one['name']: one['id'] for one in content['categories']}
    # As in COCO's own files.
    assert (ids['person'], ids['frisbee'], ids['donut'], ids['toothbrush']) == (1, 34, 60, 90)
    assert len(ids) == 80


def test_the_pictures_do_not_depend_on_what_is_written_beside_them(tmp_path):
    make_shapes_dataset(tmp_path / 'a', 1, 1, (64, 80))
    make_shapes_dataset(tmp_path / 'b', 1, 1, (64, 80), panoptic=True, semantic=True, layout='coco')
    assert (tmp_path / 'a/val/000001.png').read_bytes() == (
        tmp_path / 'b/val2017/000001.png'
    ).read_bytes()


def test_an_unknown_layout_is_refused(tmp_path):
    with pytest.raises(ValueError, match="layout='voc' is unknown: use one of plain, coco"):
        make_shapes_dataset(tmp_path / 'a', 1, 1, (64, 80), layout='voc')
    assert not (tmp_path / 'a').exists()
