import pytest

from tests.scripts import load_script

SMALL = ['--train', '2', '--val', '1', '--size', '64', '80']


@pytest.fixture(scope='module')
def tool():
    return load_script('tools/make_dataset.py')


def test_makes_the_set_and_says_so_when_it_is_there(tool, tmp_path, capsys):
    out = str(tmp_path / 'shapes')
    assert tool.main([out, *SMALL]) == 0
    assert '2 training and 1 validation images made' in capsys.readouterr().out
    assert len(list((tmp_path / 'shapes' / 'train').iterdir())) == 2
    assert tool.main([out, *SMALL]) == 0
    assert 'already there' in capsys.readouterr().out


@pytest.mark.parametrize(
    'wrong, message',
    [
        (['--train', '0'], 'num_train: got 0'),
        (['--size', '8', '80'], 'size: got (8, 80)'),
    ],
)
def test_bad_arguments_end_with_one_sentence(tool, tmp_path, capsys, wrong, message):
    assert tool.main([str(tmp_path / 'shapes'), *SMALL, *wrong]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_folder_is_refused(tool, tmp_path, capsys):
    (tmp_path / 'mine.txt').write_text('mine')
    assert tool.main([str(tmp_path), *SMALL]) == 1
    assert 'did not make' in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ['mine.txt']


def test_other_annotations_and_the_layout_of_coco_on_request(tool, tmp_path, capsys):
    out = tmp_path / 'coco'
    assert tool.main([str(out), *SMALL, '--panoptic', '--semantic', '--layout', 'coco']) == 0
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
