from pathlib import Path

import cv2
import pytest
import torch

from slab_det.cli import InputError, check_model, load_config
from slab_det.layers import set_ratio
from tests.scripts import load_script

ROOT = Path(__file__).parents[3]
MINI = str(ROOT / 'configs/mini/retinanet_slab-swin_mini_shapes.py')


@pytest.fixture(scope='module')
def tool():
    return load_script('tools/analysis/plot_schedule.py')


def test_a_picture_and_the_facts_without_data(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tool.main(
        tool.parse_args(
            [
                MINI,
                '--num-images',
                '80',
                '--gpus',
                '2',
                '--out',
                'a/s.png',
                '--cfg-options',
                'optim_wrapper.accumulative_counts=3',
            ]
        )
    )
    picture = cv2.imread('a/s.png')
    assert picture.shape[1] > 900 and (picture < 255).any()
    out = capsys.readouterr().out
    # 80 images, 2 processes, 4 images each: 10 iterations an epoch, 6 epochs.
    assert '60 iterations of 8 images, 6 epochs of 10 iterations' in out
    assert '3 iterations accumulate: 20 steps' in out
    assert 'ratio 1 at the start, 0 at the end, reached at iteration 48' in out
    assert sorted(path.name for path in tmp_path.rglob('*')) == ['a', 's.png']


@pytest.mark.parametrize(
    'options, words',
    [
        ([], 'does not exist, so that the training images .* cannot be counted: give --num-images'),
        (['--num-images', '9', '--auto-scale-lr'], '--auto-scale-lr needs auto_scale_lr'),
        (['--num-images', '9', '--cfg-options', 'train_cfg=None'], 'has no train_dataloader'),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(tool, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('SHAPES_ROOT', 'nowhere')
    with pytest.raises(InputError, match=words):
        tool.main(tool.parse_args([MINI, *options]))
    assert list(tmp_path.iterdir()) == []


def test_an_impossible_number_of_images_is_refused(tool, capsys):
    with pytest.raises(SystemExit, match='2'):
        tool.parse_args([MINI, '--num-images', '0'])
    assert "--num-images: got '0', give a whole number of at least 1" in capsys.readouterr().err


def test_images_are_counted_where_they_are(tool, tmp_path, monkeypatch, capsys):
    from slab_det.mm.datasets import make_shapes_dataset

    make_shapes_dataset(tmp_path / 'shapes', 6, 1, (64, 70))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('SHAPES_ROOT', str(tmp_path / 'shapes'))
    tool.main(tool.parse_args([MINI, '--out', 's.svg']))
    assert '12 iterations of 4 images, 6 epochs of 2 iterations' in capsys.readouterr().out


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_the_ratio_starts_where_the_checkpoint_has_it(tool, tmp_path, monkeypatch, capsys, prefix):
    monkeypatch.chdir(tmp_path)
    cfg = load_config(MINI)
    model = check_model(cfg, MINI)
    set_ratio(model, 0.5)
    weights = {prefix + key: value for key, value in model.state_dict().items()}
    torch.save(dict(state_dict=weights), 'start.pth')
    tool.main(tool.parse_args([MINI, '--num-images', '8', '--cfg-options', 'load_from=start.pth']))
    assert 'ratio 0.5 at the start, 0 at the end' in capsys.readouterr().out


def test_a_checkpoint_that_would_fill_nothing_is_refused(tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(state_dict={'other.weight': torch.ones(1)}), 'start.pth')
    with pytest.raises(InputError, match='load_from start.pth is a checkpoint of another model'):
        tool.main(
            tool.parse_args([MINI, '--num-images', '8', '--cfg-options', 'load_from=start.pth'])
        )
