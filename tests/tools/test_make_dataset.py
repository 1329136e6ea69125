import pytest

from tests.scripts import caller, load_script

SMALL = ['--train', '2', '--val', '1', '--size', '64', '80']


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the tool; return its exit code, what it printed, and its errors."""
    return caller(load_script('tools/make_dataset.py'), monkeypatch, capsys)


def test_makes_the_set_and_says_so_when_it_is_there(call, tmp_path):
    out = str(tmp_path / 'shapes')
    code, printed, _ = call(out, *SMALL)
    assert code == 0 and '2 training and 1 validation images made' in printed
    assert len(list((tmp_path / 'shapes' / 'train').iterdir())) == 2
    code, printed, _ = call(out, *SMALL)
    assert code == 0 and 'already there' in printed


def test_sizes_in_the_wrong_order_end_with_one_sentence(call, tmp_path):
    code, _, error = call(str(tmp_path / 'shapes'), *SMALL, '--size', '90', '80')
    assert code == 1 and 'size: got (90, 80)' in error and error.count('\n') == 1
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_folder_is_refused(call, tmp_path):
    (tmp_path / 'mine.txt').write_text('mine')
    code, _, error = call(str(tmp_path), *SMALL)
    assert code == 1 and 'did not make' in error and error.count('\n') == 1
    assert [path.name for path in tmp_path.iterdir()] == ['mine.txt']


def test_other_annotations_and_the_layout_of_coco_on_request(call, tmp_path):
    out = tmp_path / 'coco'
    code, *_ = call(out, *SMALL, '--panoptic', '--semantic', '--layout', 'coco')
    assert code == 0
    assert sorted(str(path.relative_to(out)) for path in out.rglob('*') if path.is_dir()) == [
        'annotations',
        'annotations/panoptic_train2017',
        'annotations/panoptic_val2017',
        'stuffthingmaps',
        'stuffthingmaps/train2017',
        'stuffthingmaps/val2017',
        'train2017',
        'val2017',
    ]
    assert sorted(path.name for path in out.glob('annotations/*.json')) == [
        'instances_train2017.json',
        'instances_val2017.json',
        'panoptic_train2017.json',
        'panoptic_val2017.json',
    ]
