import pytest
from torch import nn

from slab_det.errors import InputError
from slab_det.mm.data import check_classes_of_model, check_trained_classes, classes_of
from slab_det.mm.data.classes import heads_of


class Head(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self.loss_cls = nn.Module()
        self.loss_cls.num_classes = 99


def cascade(numbers, masks, rpn=1):
    model, roi = nn.Module(), nn.Module()
    model.backbone = Head(1000)
    model.rpn_head = Head(rpn)
    roi.bbox_head = nn.ModuleList(map(Head, numbers))
    roi.mask_head = nn.ModuleList(map(Head, masks))
    roi.semantic_head = Head(183)
    model.roi_head = roi
    return model


def test_every_head_that_predicts_classes_is_found():
    found = dict(heads_of(cascade([2, 2, 2], [2, 3, 2])))
    assert found == {
        **{f'roi_head.bbox_head.{index}': 2 for index in range(3)},
        **{f'roi_head.mask_head.{index}': number for index, number in enumerate([2, 3, 2])},
    }


def test_num_classes_must_be_the_number_of_classes():
    check_classes_of_model(cascade([2, 2], [2, 2]), ('cat', 'dog'), 'c.py')
    with pytest.raises(InputError) as error:
        check_classes_of_model(cascade([2, 80], [80, 2]), ('cat', 'dog'), 'c.py')
    message = str(error.value)
    assert 'num_classes of model.roi_head.bbox_head.1 of c.py is 80 (and 1 more heads)' in message
    assert "2 classes, 'cat', 'dog'" in message
    assert 'model.roi_head.mask_head.0.num_classes=2' in message


def test_heads_of_boxes_count_the_things_of_panoptic_data():
    model = cascade([2, 2], [2, 2])
    check_classes_of_model(model, ('cat', 'dog', 'sky'), 'c.py', things=('cat', 'dog'))
    with pytest.raises(InputError, match='is 2'):
        check_classes_of_model(model, ('cat', 'dog', 'sky'), 'c.py')


def test_detectors_with_a_language_model_take_classes_from_the_text():
    model = cascade([80], [80])
    model.language_model = nn.Module()
    check_classes_of_model(model, ('cat',), 'c.py')


@pytest.mark.parametrize('key', ['classes', 'CLASSES'])
def test_a_checkpoint_may_have_other_names_but_no_other_order(key):
    classes = ('cat', 'dog', 'cow')
    for meta in (None, {}, {key: classes}, {key: list(classes)}, {key: None}):
        assert check_trained_classes(meta, classes, 'checkpoint a.pth') is None
    warning = check_trained_classes({key: ('cat', 'wolf', 'cow')}, classes, 'checkpoint a.pth')
    assert warning.startswith('checkpoint a.pth was trained for other classes')
    assert "label 1 is 'wolf' and 'dog'" in warning
    with pytest.raises(InputError, match="label 0 is 'dog' and 'cat', the same names in another"):
        check_trained_classes({key: ('dog', 'cat', 'cow')}, classes, 'checkpoint a.pth')
    assert check_trained_classes({key: ('dog', 'cat', 'cow')}, classes, 'a', strict=False) is None


def test_classes_are_those_of_metainfo_or_of_the_data_set(tmp_path):
    class Data:
        METAINFO = dict(classes=('a', 'b'))

    assert classes_of({}, Data, 'd') == ('a', 'b')
    assert classes_of(dict(metainfo=dict(classes=['c'])), Data, 'd') == ('c',)
    assert classes_of({}, None, 'd') is None
    (tmp_path / 'names.txt').write_text('x\ny\n')
    assert classes_of(dict(metainfo=dict(classes=str(tmp_path / 'names.txt'))), Data, 'd') == (
        'x',
        'y',
    )
