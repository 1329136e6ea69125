"""The table of tools/get_flops.py and its errors."""

import re
from pathlib import Path

import pytest

from tests.scripts import caller, load_script

ROOT = Path(__file__).parents[2]
RETINANET = str(ROOT / 'configs/slab_swin/retinanet_slab-swin-t_fpn_1x_coco.py')
MASK_RCNN = str(ROOT / 'configs/slab_swin/mask-rcnn_slab-swin-t_fpn_1x_coco.py')


@pytest.fixture(scope='module')
def tool():
    return load_script('tools/get_flops.py')


@pytest.fixture
def get_flops(tool, monkeypatch, capsys):
    """Run the tool; return its exit code, what it printed, and its errors."""
    return caller(tool, monkeypatch, capsys)


def numbers(text, part):
    line = next(line for line in text.splitlines() if re.match(rf'(\| )?{part} ', line))
    return [float(x) for x in re.findall(r'(\d+\.\d+) [MG]', line)]


def test_parts_add_up_and_the_file_holds_the_same_table(get_flops, tmp_path):
    file = tmp_path / 'flops.md'
    code, out, _ = get_flops(RETINANET, '--shape', '256', '320', '--out', str(file))
    assert code == 0 and '256 x 320 pixels' in out and 'proposals' not in out
    parts = [numbers(out, part) for part in ('backbone', 'neck', 'bbox_head')]
    for i in range(3):
        assert numbers(out, 'all')[i] == pytest.approx(sum(p[i] for p in parts), abs=0.02)
    text = file.read_text()
    assert '| part | parameters | multiply-adds |' in text
    assert numbers(text, 'all') == numbers(out, 'all')
    assert list(tmp_path.iterdir()) == [file]


def test_the_default_size_and_the_backbone_alone(get_flops):
    code, out, _ = get_flops(RETINANET, '--backbone-only')
    assert code == 0 and '800 x 1216 pixels' in out and 'bbox_head' not in out
    # Four times the pixels cost close to four times as much, as windows divide neither size.
    full = numbers(out, 'backbone')
    half = numbers(get_flops(RETINANET, '--backbone-only', '--shape', '400', '608')[1], 'backbone')
    assert full[0] == half[0] and full[1] == pytest.approx(4 * half[1], rel=0.15)


def test_options_reach_the_model(get_flops):
    small = ('--shape', '64', '64', '--backbone-only')
    tiny = numbers(get_flops(RETINANET, *small)[1], 'backbone')
    base = numbers(
        get_flops(
            RETINANET,
            *small,
            '--cfg-options',
            'model.backbone.arch=base',
            'model.neck.in_channels=[256,512,1024]',
        )[1],
        'backbone',
    )
    assert base[0] > 2 * tiny[0]


def test_the_number_of_proposals_is_said(get_flops):
    code, out, _ = get_flops(
        MASK_RCNN, '--shape', '64', '64', '--cfg-options', 'model.test_cfg.rpn.max_per_img=17'
    )
    assert code == 0 and 'gets 17 proposals' in out


@pytest.mark.parametrize(
    'argv, words',
    [
        (['nowhere.py'], 'config nowhere.py is not a file'),
        ([str(ROOT / 'configs/_base_/schedules/adamw_1x.py')], 'has no model'),
        ([RETINANET, '--shape', '2', '2'], 'image is 2x2 pixels'),
        ([RETINANET, '--cfg-options', 'model.backbone.arch=huge'], "got 'huge'"),
        (
            [RETINANET, '--shape', '64', '64', '--backbone-only', '--out', '/dev/null/folder/x.md'],
            '--out /dev/null/folder/x.md cannot be written',
        ),
    ],
)
def test_bad_input_ends_in_one_sentence(get_flops, argv, words):
    code, out, err = get_flops(*argv)
    assert code == 1 and words in err
    assert err.startswith('error: ') and err.count('\n') == 1
