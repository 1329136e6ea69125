from types import SimpleNamespace

import cv2
import numpy as np

from slab_det.mm.visualization import drawn_names
from slab_det.mm.visualization.names import picture_name


def test_names_that_a_font_lacks_are_numbers():
    names = ['cat', 'chat à', '猫', 'a\nb']
    assert drawn_names(names) == (
        ['cat', '#1', '#2', '#3'],
        {'#1': 'chat à', '#2': '猫', '#3': 'a\nb'},
    )
    assert drawn_names(names, 'DejaVu Sans') == (
        ['cat', 'chat à', '#2', '#3'],
        {'#2': '猫', '#3': 'a\nb'},
    )


def test_pictures_of_different_paths_have_different_names():
    paths = ['a.png', 'cam0/a.png', 'cam1/a.png', 'cam1\\b.png', '/data/cam0/a.png', '../a/b.png']
    names = [picture_name(path) for path in paths]
    assert len(set(names)) == len(names)
    assert names[1] == 'cam0__a.png' and names[3] == 'cam1__b.png'
    assert not any('/' in name or '..' in name for name in names)


def test_pictures_of_a_test_do_not_replace_each_other(tmp_path):
    from mmdet.structures import DetDataSample
    from mmdet.visualization import DetLocalVisualizer

    from slab_det.mm.visualization.hook import PathVisualizationHook

    DetLocalVisualizer.get_instance('visualizer')
    samples = []
    for camera in ('cam0', 'cam1'):
        (tmp_path / camera).mkdir()
        for name in ('a.png', 'b.png'):
            path = tmp_path / camera / name
            cv2.imwrite(str(path), np.zeros((20, 20, 3), np.uint8))
            samples.append(DetDataSample(metainfo=dict(img_path=str(path))))
    hook = PathVisualizationHook(draw=True, test_out_dir='shown')
    runner = SimpleNamespace(work_dir=str(tmp_path / 'run'), timestamp='now')
    for batch in (samples[:3], samples[3:]):
        hook.after_test_iter(runner, 0, {}, batch)
    drawn = list((tmp_path / 'run').rglob('*.png'))
    assert len(drawn) == 4
    assert {path.name for path in drawn if path.parent.name == 'shown'} == {'a.png', 'b.png'}
    assert all(tmp_path / 'run/now/shown' in path.parents for path in drawn)
