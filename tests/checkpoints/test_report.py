import torch

from slab_det.checkpoints import LoadReport
from slab_det.checkpoints.report import shorten


def test_summary_counts_and_lists_what_is_not_plain():
    report = LoadReport(
        'Swin',
        used=['a', 'b'],
        renamed=['x.a'],
        resized=['b'],
        ignored=['head.w'],
        missing=[f'norm{i}.weight' for i in range(8)],
        ratio=0.5,
    )
    first, *rest = report.summary().splitlines()
    assert first == (
        'Swin: 2 entries used, 1 of the checkpoint renamed, 1 resized, 1 ignored, 8 '
        'missing; PRepBN ratio 0.5'
    )
    assert rest[:2] == ['  resized: b', '  ignored: head.w']
    assert rest[2].endswith('norm5.weight and 2 more')


def test_table_has_a_row_for_every_entry():
    report = LoadReport('Swin', used=['a', 'b'], resized=['b'], ignored=['c'], missing=['d'])
    weights = {'a': torch.zeros(2, 3), 'b': torch.zeros(4)}
    assert [row.split() for row in report.table(weights).splitlines()] == [
        ['used', 'a', '(2,', '3)'],
        ['resized', 'b', '(4,)'],
        ['ignored', 'c'],
        ['missing', 'd'],
    ]


def test_long_lists_are_cut():
    assert shorten(['a', 'b'], limit=2) == 'a, b'
    assert shorten(['a', 'b', 'c'], limit=2) == 'a, b and 1 more'
