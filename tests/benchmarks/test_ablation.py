"""The ablation: its grid, what it repeats and what not, its statistics and its report."""

import json
import multiprocessing
import signal
import subprocess
import sys
from argparse import Namespace
from collections import OrderedDict
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import DefaultScope

BENCHMARKS = Path(__file__).resolve().parents[2] / 'benchmarks'
sys.path.insert(0, str(BENCHMARKS))

import ablation  # noqa: E402
from ablation_study import curves, grid, norms, report, runs, statistics  # noqa: E402

from slab_det.cli import InputError  # noqa: E402
from tests.resumption import die_in_checkpoint  # noqa: E402


def fake_result(work_dir, cell, seed, ap, finite=True, machine='a machine'):
    """A result file as a finished run leaves it, without the training."""
    steps = [50, 100]
    training = [
        {
            'step': step,
            'loss': 1 / step,
            'lr': 1e-3,
            **({'ratio': 1 - step / 100} if cell.norm == 'PRepBN' else {}),
        }
        for step in steps
    ]
    evaluations = [
        {'step': step, 'bbox_AP': ap * step / 100, 'bbox_AP50': ap + 0.2} for step in steps
    ]
    result = dict(
        settings=dict(asdict(cell), seed=seed, iterations=grid.iterations(cell)),
        metrics={'bbox_AP': ap, 'bbox_AP50': ap + 0.2},
        finite=finite,
        cpu_seconds=90.0,
        threads=1,
        machine=machine,
        curves=dict(training=training, evaluations=evaluations),
    )
    folder = runs.run_folder(work_dir, cell.name, seed)
    folder.mkdir(parents=True)
    runs.write_result(folder, result)


def cell_of(norm, attention='SLA', data='bccd'):
    return next(
        cell
        for cell in grid.grid()
        if (cell.norm, cell.attention, cell.data) == (norm, attention, data)
    )


# ---------------------------------------------------------------- grid


def test_the_grid_crosses_norms_and_attentions():
    settings = [(cell.data, cell.norm, cell.attention) for cell in grid.grid()]
    norms_of = {'bccd': ('LN', 'BN', 'RepBN', 'PRepBN'), 'shapes': ('LN', 'PRepBN')}
    expected = {
        (data, norm, attention)
        for data in norms_of
        for norm in norms_of[data]
        for attention in ('softmax', 'SLA')
    }
    assert set(settings) == expected and len(settings) == 12


def test_names_of_cells_are_unique_over_all_studies():
    cells = {cell for study in grid.STUDIES.values() for cell in study()}
    assert len({cell.name for cell in cells}) == len(cells)


def test_every_cell_is_trained_once_before_any_gets_its_next_seed():
    chosen = grid.select(grid.grid(), ['bccd-LN', 'bccd-BN'], [3, 1])
    assert [seed for _, seed in chosen] == [3] * 4 + [1] * 4
    assert {cell.norm for cell, _ in chosen} == {'LN', 'BN'}


@pytest.mark.parametrize('data', ['bccd', 'shapes'])
def test_all_cells_of_a_data_set_differ_in_norm_and_attention_only(data, tmp_path):
    configs = {
        cell.name: grid.make_config(cell, 5, tmp_path).to_dict()
        for cell in grid.grid()
        if cell.data == data
    }
    for name, cfg in configs.items():
        backbone = cfg['model']['backbone']
        _, _, norm, attention = name.split('-')
        assert backbone.pop('norm_cfg') == dict(type=norm)
        assert backbone.pop('attn_types') == {'softmax': 'SSSS', 'SLA': 'LLSS'}[attention]
        backbone.pop('window_sizes')
        (hook,) = (hook for hook in cfg['custom_hooks'] if hook['type'] == 'PRepBNHook')
        assert hook.pop('allow_missing') is (norm != 'PRepBN')
    first, *others = configs.values()
    assert first['randomness']['seed'] == 5
    assert all(other == first for other in others)


@pytest.mark.parametrize(
    'cell',
    [cell for cell in grid.batch_cells() if cell.norm == 'PRepBN'],
    ids=lambda cell: cell.name,
)
def test_the_batch_study_keeps_the_number_of_images(cell, tmp_path):
    budget, cfg = grid.BUDGETS[cell.data], grid.make_config(cell, 0, tmp_path)
    assert cfg.train_cfg.max_iters * cfg.train_dataloader.batch_size == 4 * budget.iterations
    assert cfg.param_scheduler[0]['end'] * cell.batch == 4 * budget.warm_up
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(budget.lr * (cell.batch / 4) ** 0.5)


def test_a_longer_run_has_its_schedules_stretched(tmp_path):
    for cell in grid.length_cells():
        usual, longer = (
            grid.make_config(one, 0, tmp_path) for one in (cell_of(cell.norm, data='shapes'), cell)
        )
        assert longer.train_cfg.max_iters == 3 * usual.train_cfg.max_iters == 1200
        assert longer.param_scheduler[1]['T_max'] == longer.param_scheduler[1]['end'] == 1200
        assert longer.model == usual.model and longer.optim_wrapper == usual.optim_wrapper


@pytest.fixture
def bccd(tmp_path, monkeypatch):
    """BCCD's layout with 15 images in the validation set, of which only the list is there."""
    monkeypatch.setenv('BCCD_ROOT', str(tmp_path / 'bccd'))
    (tmp_path / 'bccd').mkdir()
    (tmp_path / 'bccd' / 'val.json').write_text(
        json.dumps(dict(images=[dict(id=i) for i in range(15)]))
    )


def test_the_padding_study_shows_every_image_once_and_alone(bccd, tmp_path):
    hook, plain = (grid.make_config(cell, 0, tmp_path) for cell in grid.padding_cells())
    parts = hook.val_dataloader.dataset.datasets
    assert sorted(index for part in parts for index in part.indices) == list(range(15))
    resizes = [next(step for step in part.pipeline if step['type'] == 'Resize') for part in parts]
    assert [tuple(resize.scale) for resize in resizes] == list(grid.SHAPES)
    assert not any(resize.keep_ratio for resize in resizes) and hook.val_dataloader.batch_size == 1
    steps = [step['type'] for step in hook.train_dataloader.dataset.pipeline]
    assert steps.count('RandomChoiceResize') == 1 and 'Resize' not in steps
    assert hook.custom_hooks.pop()['type'] == 'ValidTokensHook'
    assert (
        hook.custom_hooks == plain.custom_hooks and hook.train_dataloader == plain.train_dataloader
    )


def test_from_layer_norm_differs_in_how_the_branch_begins(tmp_path):
    fit, new, frozen = (
        grid.make_config(cell, 0, tmp_path, tmp_path / 'ln.pth') for cell in grid.from_ln_cells()
    )
    assert fit.custom_hooks.pop()['fit_layer_norm'] is True
    assert fit.custom_hooks == new.custom_hooks == frozen.custom_hooks
    assert fit.load_from == new.load_from == frozen.load_from == str(tmp_path / 'ln.pth')
    assert [cfg.model.backbone.norm_eval for cfg in (fit, new, frozen)] == [False, False, True]
    assert {cfg.optim_wrapper.optimizer.lr for cfg in (fit, new, frozen)} == {
        grid.BUDGETS['bccd'].lr
    }
    assert new.train_cfg.max_iters == grid.BUDGETS['bccd'].iterations // 4


def test_a_run_that_starts_from_a_checkpoint_resumes_from_its_own_once_it_has_one(tmp_path):
    cell, start = grid.norm_eval_cells()[0], tmp_path / 'final.pth'
    cfg = grid.make_config(cell, 0, tmp_path, start)
    assert (cfg.load_from, cfg.resume) == (str(start), False)
    (tmp_path / 'last_checkpoint').write_text('iter_50.pth')
    cfg = grid.make_config(cell, 0, tmp_path, start)
    assert (cfg.load_from, cfg.resume) == (None, True)


@pytest.mark.parametrize('norm', grid.NORMS)
def test_the_transformer_has_the_norm_of_its_cell_everywhere(norm, tmp_path, monkeypatch):
    from mmdet.registry import MODELS

    monkeypatch.setitem(norms.NORMS, 'BN', norms.PlainBatchNorm)
    cfg = grid.make_config(cell_of(norm), 0, tmp_path)
    net = MODELS.build(cfg.model.backbone).net
    kinds = {'LN': torch.nn.LayerNorm, **norms.NORMS}
    found = [name for name, module in net.named_modules() if type(module) is kinds[norm]]
    # Patch embedding, two norms in each of 8 blocks, three patch mergings.
    expected = 1 + 2 * 8 + 3
    assert len(found) == expected
    layer_norms = sum(isinstance(module, torch.nn.LayerNorm) for module in net.modules())
    assert layer_norms == (expected if norm in ('LN', 'PRepBN') else 0)


def test_batch_norm_alone_is_torchs_over_all_tokens():
    norm = norms.PlainBatchNorm(3)
    assert [name for name, _ in norm.named_parameters()] == ['bn.weight', 'bn.bias']
    x = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(0)) * 3 + 1
    rows = x.reshape(14, 3)
    expected = (rows - rows.mean(0)) / torch.sqrt(rows.var(0, unbiased=False) + 1e-5)
    torch.testing.assert_close(norm(x).reshape(14, 3), expected)
    norm.eval()
    mean, var = 0.1 * rows.mean(0), 0.9 + 0.1 * rows.var(0)
    torch.testing.assert_close(norm(x), F.batch_norm(rows, mean, var, eps=1e-5).view_as(x))


# ---------------------------------------------------------------- runs


def test_a_run_is_finished_by_its_result_file_under_the_same_settings(tmp_path):
    cell = cell_of('LN')
    runs.run_folder(tmp_path, cell.name, 0).mkdir(parents=True)
    assert not runs.is_finished(tmp_path, cell, 0)
    fake_result(tmp_path, cell, 1, 0.3)
    assert runs.is_finished(tmp_path, cell, 1)
    with pytest.raises(InputError, match='batch=4 instead of 2'):
        runs.is_finished(tmp_path, replace(cell, batch=2), 1)


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path):
    with (
        runs.only_once(tmp_path / 'run'),
        pytest.raises(InputError, match='another process trains in'),
        runs.only_once(tmp_path / 'run'),
    ):
        pass
    with runs.only_once(tmp_path / 'run'):
        pass


def test_curves_of_a_resumed_run_count_what_was_done_last(tmp_path):
    for name, rows in {
        '20260101_000000': [
            dict(loss=2.0, lr=1, step=10, prepbn_ratio=0.9),
            dict(loss=9.0, lr=1, step=20),
            {'coco/bbox_mAP': 0.1, 'coco/bbox_mAP_50': 0.2, 'step': 20},
        ],
        '20260101_000100': [
            dict(loss=1.0, lr=1, step=20, prepbn_ratio=0.8),
            {'coco/bbox_mAP': 0.3, 'coco/bbox_mAP_50': 0.4, 'step': 20},
            dict(loss=0.5, lr=1, step=30, prepbn_ratio=0.7),
        ],
    }.items():
        file = tmp_path / name / 'vis_data' / 'scalars.json'
        file.parent.mkdir(parents=True)
        file.write_text('\n'.join(map(json.dumps, rows)))
    found = runs.read_curves(tmp_path)
    assert [(row['step'], row['loss'], row['ratio']) for row in found['training']] == [
        (10, 2.0, 0.9),
        (20, 1.0, 0.8),
        (30, 0.5, 0.7),
    ]
    assert found['evaluations'] == [{'step': 20, 'bbox_AP': 0.3, 'bbox_AP50': 0.4}]


def test_finished_runs_are_skipped_and_failed_ones_named(tmp_path, monkeypatch, capsys):
    cells = [cell_of('LN'), cell_of('BN'), cell_of('RepBN')]
    fake_result(tmp_path, cells[0], 0, 0.3)
    started = []

    def start(cell, seed, args):
        started.append(cell.norm)
        return subprocess.Popen(
            [sys.executable, '-c', f'raise SystemExit({int(cell.norm == "BN")})']
        )

    monkeypatch.setattr(ablation, 'start', start)
    failed = ablation.train_all([(cell, 0) for cell in cells], Namespace(work_dir=tmp_path, jobs=2))
    assert started == ['BN', 'RepBN'] and failed == ['grid-bccd-BN-SLA seed 0']
    assert '1 of 3 runs are finished' in capsys.readouterr().out


@pytest.mark.parametrize(
    'words, message',
    [
        (['--only', 'GroupNorm'], '--only GroupNorm fits no cell'),
        (['--jobs', '0'], '--jobs 0 must be at least 1'),
        (['--run', 'nothing', '--seeds', '0'], '--run nothing is not a cell'),
        (['--run', 'grid-bccd-LN-SLA'], 'takes one seed'),
        (['--report-only', '--out', 'report.md'], 'holds no finished run'),
    ],
)
def test_bad_input_is_refused_in_a_sentence(words, message, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['ablation.py', '--work-dir', str(tmp_path / 'runs'), *words])
    with pytest.raises(InputError, match=message):
        ablation.main(ablation.parse_args())
    assert not (tmp_path / 'runs').exists()


def test_missing_data_are_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setenv('BCCD_ROOT', str(tmp_path / 'nowhere'))
    with pytest.raises(InputError, match='nowhere is not a folder'):
        ablation.check_runs([(cell_of('LN'), 0)], tmp_path)


def validation_images(cfg):
    """The validation set, one by one."""
    from mmengine.runner import Runner

    return Runner.build_dataloader({**cfg.val_dataloader, 'batch_size': 1})


@pytest.mark.slow
def test_a_run_leaves_its_result_and_its_weights_and_is_not_repeated(tmp_path, monkeypatch):
    from slab_det.mm.datasets import make_shapes_dataset

    make_shapes_dataset(tmp_path / 'shapes', num_train=6, num_val=2)
    monkeypatch.setenv('SHAPES_ROOT', str(tmp_path / 'shapes'))
    monkeypatch.setitem(
        grid.BUDGETS, 'shapes', grid.Budget(iterations=2, warm_up=1, lr=1e-3, evaluations=1)
    )
    cell = cell_of('PRepBN', data='shapes')
    runs.train(tmp_path, cell, 3, 1, 'this machine')

    folder = runs.run_folder(tmp_path, cell.name, 3)
    result = runs.read_result(tmp_path, cell.name, 3)
    assert [row['step'] for row in result['curves']['training']] == [1, 2]
    assert [row['step'] for row in result['curves']['evaluations']] == [2]
    assert set(result['metrics']) == {'bbox_AP', 'bbox_AP50', 'segm_AP', 'segm_AP50'}
    assert result['settings']['seed'] == 3 and result['finite'] and result['cpu_seconds'] > 0
    assert not list(folder.glob('iter_*.pth'))
    state = torch.load(folder / 'final.pth', weights_only=True)['state_dict']
    assert all(torch.isfinite(value).all() for value in state.values())
    written = (folder / 'result.json').stat().st_mtime_ns
    runs.train(tmp_path, cell, 3, 1, 'this machine')
    assert (folder / 'result.json').stat().st_mtime_ns == written

    # In a separate process, in which no Runner has set the default scope yet.
    monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())
    calibrated = replace(cell, study='calibration', start=cell.name)
    runs.train(tmp_path, calibrated, 3, 1, 'this machine')
    result = runs.read_result(tmp_path, calibrated.name, 3)
    assert result['calibration']['images'] == 6 and result['calibration']['mean_change'] > 0
    assert set(result['metrics']) == {'bbox_AP', 'bbox_AP50', 'segm_AP', 'segm_AP50'}

    # Recomputed statistics are evaluated, not those of a checkpoint that lies there.
    cfg = grid.make_config(cell, 3, folder)
    assert cfg.resume
    found = runs._recompute(
        cfg, folder / 'final.pth', lambda: validation_images(cfg), part='backbone.'
    )
    assert (
        found['images'] == 2
        and found['mean_change'] > 0
        and set(found['metrics']) == set(result['metrics'])
    )


TINY = grid.Budget(iterations=4, warm_up=1, lr=1e-3, evaluations=1)


def train_tiny(work_dir, cell, last_checkpoint):
    grid.BUDGETS['shapes'] = TINY
    if last_checkpoint:
        die_in_checkpoint(last_checkpoint)
    runs.train(work_dir, cell, 3, 1, 'this machine')


def train_apart(work_dir, cell, last_checkpoint=None):
    """Train in a separate process, as the script does, and return its exit code; SIGKILL ends it
    while it writes the ``last_checkpoint``-th, where that is given."""
    process = multiprocessing.get_context('spawn').Process(
        target=train_tiny, args=(work_dir, cell, last_checkpoint)
    )
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.slow
def test_a_run_that_was_killed_while_it_saved_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    from slab_det.mm.datasets import make_shapes_dataset

    make_shapes_dataset(tmp_path / 'shapes', num_train=6, num_val=2)
    monkeypatch.setenv('SHAPES_ROOT', str(tmp_path / 'shapes'))
    cell = cell_of('PRepBN', data='shapes')
    whole, cut = tmp_path / 'whole', tmp_path / 'cut'
    assert train_apart(cut, cell, last_checkpoint=3) == -signal.SIGKILL
    folder = runs.run_folder(cut, cell.name, 3)
    last = Path((folder / 'last_checkpoint').read_text())
    assert (last.name, last.exists(), (folder / '.iter_3.part.pth').exists()) == (
        'iter_2.pth',
        True,
        True,
    )

    assert train_apart(whole, cell) == train_apart(cut, cell) == 0
    expected, found = (runs.read_result(work_dir, cell.name, 3) for work_dir in (whole, cut))
    assert [row['step'] for row in expected['curves']['training']] == [1, 2, 3, 4]
    for curve in ('training', 'evaluations'):
        for row, wanted in zip(found['curves'][curve], expected['curves'][curve], strict=True):
            assert row == pytest.approx(wanted, rel=1e-5, abs=1e-7)
    assert (
        found['metrics'] == pytest.approx(expected['metrics'], abs=1e-6)
        and len(found['metrics']) == 4
    )
    assert expected['cpu_seconds'] > 0 and found['cpu_seconds'] is None
    weights = [
        torch.load(runs.run_folder(work_dir, cell.name, 3) / 'final.pth', weights_only=True)[
            'state_dict'
        ]
        for work_dir in (cut, whole)
    ]
    torch.testing.assert_close(*weights, rtol=0, atol=1e-6)
    assert not list(folder.glob('*iter_*'))


# ---------------------------------------------------------------- statistics


def test_mean_and_sample_standard_deviation():
    summary = statistics.summarize([1.0, 3.0, 8.0])
    assert (summary.mean, summary.count) == (4.0, 3)
    assert summary.std == pytest.approx(((9 + 1 + 16) / 2) ** 0.5)
    assert statistics.summarize([5.0]) == statistics.Summary(5.0, None, 1)
    assert statistics.summarize([]) is None


def test_the_interval_of_paired_differences_is_students():
    # Quantiles of Student's t at 97.5 %: 12.706 for 1 degree of freedom, 4.303 for 2.
    found = statistics.paired_difference(
        {0: 11.0, 1: 13.0, 2: 15.0, 7: 99.0}, {0: 10.0, 1: 11.0, 2: 12.0, 8: 0.0}
    )
    assert (found.mean, found.count) == (2.0, 3)
    assert found.margin == pytest.approx(4.303 * 1 / 3**0.5, rel=1e-3)
    assert not found.decided
    two = statistics.paired_difference({0: 1.0, 1: 3.0}, {0: 0.0, 1: 0.0})
    assert two.margin == pytest.approx(12.706 * 2**0.5 / 2**0.5, rel=1e-3)
    assert statistics.paired_difference({0: 1.0, 1: 2.0}, {0: 0.5, 1: 1.5}).decided
    assert statistics.paired_difference({0: 1.0}, {0: 0.25}) == statistics.Difference(0.75, None, 1)
    assert statistics.paired_difference({0: 1.0}, {1: 0.0}) is None


# ---------------------------------------------------------------- report


@pytest.fixture
def finished(tmp_path):
    """Three seeds of LayerNorm and PRepBN, one of BatchNorm, all with linear attention."""
    for seed, (ln, prepbn) in enumerate([(0.30, 0.31), (0.32, 0.33), (0.34, 0.35)]):
        fake_result(tmp_path / 'runs', cell_of('LN'), seed, ln)
        fake_result(tmp_path / 'runs', cell_of('PRepBN'), seed, prepbn)
    fake_result(tmp_path / 'runs', cell_of('BN'), 0, 0.25, finite=False)
    return tmp_path


def row_of(text, *cells):
    """The one table row that begins with ``cells``."""
    (row,) = (
        line for line in text.splitlines() if line.startswith('| ' + ' | '.join(cells) + ' |')
    )
    return [cell.strip() for cell in row.strip('|').split('|')][len(cells) :]


def test_the_report_gives_means_spreads_and_what_is_missing(finished):
    report.write_report(finished / 'docs.md', finished / 'runs')
    text = (finished / 'docs.md').read_text()
    scores, differences = text.split('Differences in box AP', 1)
    assert row_of(scores, 'LN', 'SLA') == ['32.0 ± 2.0', '52.0 ± 2.0', '0 1 2', '1.5']
    assert row_of(scores, 'BN', 'SLA') == ['25.0', '45.0', '0', '1.5']
    assert row_of(scores, 'RepBN', 'softmax') == ['–', '–', 'none yet', '–']
    bccd = differences.split('## ')[0]
    assert row_of(bccd, 'PRepBN', 'SLA') == ['**+1.0 ± 0.0**', '+6.0 (one seed)']
    assert row_of(bccd, 'BN', 'SLA') == ['-5.0 (one seed)', '–']
    assert row_of(bccd, 'PRepBN', 'softmax and SLA') == row_of(bccd, 'PRepBN', 'SLA')
    assert '**17 of 24 runs are not trained yet**' in scores
    assert 'The loss was not finite in: grid-bccd-BN-SLA seed 0.' in text
    assert '> a machine' in text


def test_pairs_of_both_attentions_are_taken_together(finished):
    for seed, (ln, prepbn) in enumerate([(0.50, 0.51), (0.70, 0.73)]):
        fake_result(finished / 'runs', cell_of('LN', 'softmax'), seed, ln)
        fake_result(finished / 'runs', cell_of('PRepBN', 'softmax'), seed, prepbn)
    report.write_report(finished / 'docs.md', finished / 'runs')
    differences = (
        (finished / 'docs.md').read_text().split('Differences in box AP', 1)[1].split('## ')[0]
    )
    # Differences 1, 1, 1 (SLA), 1 and 3 (softmax): mean 1.4, variance 0.8, t of 4 degrees of
    # freedom 2.776.
    assert row_of(differences, 'PRepBN', 'softmax and SLA')[0] == '**+1.4 ± 1.1**'
    assert row_of(differences, 'PRepBN', 'softmax')[0] == '+2.0 ± 12.7'


def test_the_report_draws_its_curves(finished):
    report.write_report(finished / 'docs.md', finished / 'runs')
    assert '(images/ablation_bccd.png)' in (finished / 'docs.md').read_text()
    picture = cv2.imread(str(finished / 'images' / 'ablation_bccd.png'))
    blue = np.array([0xB2, 0x72, 0x00])  # PRepBN's, as OpenCV orders channels
    assert (np.abs(picture.astype(int) - blue).max(-1) < 8).sum() > 100
    assert not (finished / 'images' / 'ablation_shapes.png').exists()


def test_the_report_keeps_what_was_written_around_it(finished):
    out = finished / 'docs.md'
    out.write_text(f'# My title\n\n{report.BEGIN}\nearlier results\n{report.END}\n\nMy words.\n')
    report.write_report(out, finished / 'runs')
    text = out.read_text()
    assert text.startswith('# My title\n') and text.endswith('\nMy words.\n')
    assert 'earlier results' not in text and '32.0 ± 2.0' in text
    out.write_text('no place for results')
    with pytest.raises(InputError, match='must hold the lines'):
        report.write_report(out, finished / 'runs')
    assert out.read_text() == 'no place for results'


def test_studies_appear_beside_the_point_that_the_grid_has(finished):
    cell = grid.schedule_cells()[0]
    fake_result(finished / 'runs', cell, 0, 0.2)
    report.write_report(finished / 'docs.md', finished / 'runs')
    section = (
        (finished / 'docs.md').read_text().split('## When the ratio reaches 0')[1].split('## ')[0]
    )
    assert row_of(section, f'{cell.ratio_end:.0%} of the training', 'SLA')[0] == '20.0'
    assert row_of(section, '80% of the training', 'SLA')[0] == '33.0 ± 2.0'
    # 20 against 31 of seed 0.
    assert row_of(section, f'{cell.ratio_end:.0%} of the training', 'SLA')[2] == '-11.0 (one seed)'


def test_longer_runs_stand_beside_the_usual_ones(finished):
    for cell, ap in zip(grid.length_cells(), (0.50, 0.60)):
        fake_result(finished / 'runs', cell, 0, ap)
        fake_result(finished / 'runs', cell_of(cell.norm, data='shapes'), 0, ap / 2)
    report.write_report(finished / 'docs.md', finished / 'runs')
    section = (finished / 'docs.md').read_text().split('built-in data set, trained longer')[1]
    rows = {
        name: row_of(section, name, 'SLA')[0]
        for name in ('LN, 400', 'LN, 1200', 'PRepBN, 400', 'PRepBN, 1200')
    }
    assert rows == {
        'LN, 400': '30.0',
        'LN, 1200': '60.0',
        'PRepBN, 400': '25.0',
        'PRepBN, 1200': '50.0',
    }
    assert row_of(section, 'PRepBN, 400', 'SLA')[2] == '-5.0 (one seed)'
    assert row_of(section, 'PRepBN, 1200', 'SLA')[2] == '-10.0 (one seed)'


def test_padding_is_told_with_true_statistics_and_errors(finished):
    for cell, ap in zip(grid.padding_cells(), (0.30, 0.20)):
        for seed in (0, 1):
            fake_result(finished / 'runs', cell, seed, ap)
            path = runs.run_folder(finished / 'runs', cell.name, seed) / 'result.json'
            true = ap + 0.02 * (seed if cell.valid_tokens else 1 - seed)
            calibration = dict(
                mean_change=0.1 + 0.2 * seed, var_change=ap, metrics=dict(bbox_AP=true)
            )
            path.write_text(json.dumps(dict(json.loads(path.read_text()), calibration=calibration)))
    report.write_report(finished / 'docs.md', finished / 'runs')
    section = (finished / 'docs.md').read_text().split('## Padding')[1]
    # True statistics: 30 and 32 against 22 and 20, differences 8 and 12, t of 1 degree of freedom
    # 12.706.
    assert row_of(section, 'tokens of images') == [
        '30.0 ± 0.0',
        '**+10.0 ± 0.0**',
        '31.0 ± 1.4',
        '+10.0 ± 25.4',
        '0.20',
        '0.30',
        '0 1',
    ]
    assert row_of(section, 'all tokens') == [
        '20.0 ± 0.0',
        '–',
        '21.0 ± 1.4',
        '–',
        '0.20',
        '0.20',
        '0 1',
    ]


def test_from_layer_norm_stands_below_the_detector_it_starts_from(finished):
    for cell, ap in zip(grid.from_ln_cells(), (0.31, 0.29, 0.01)):
        fake_result(finished / 'runs', cell, 0, ap)
    report.write_report(finished / 'docs.md', finished / 'runs')
    section = (finished / 'docs.md').read_text().split('## From the LayerNorm detector')[1]
    assert row_of(section, 'LayerNorm detector it starts from', 'SLA')[0] == '32.0 ± 2.0'
    assert row_of(section, 'LayerNorm detector it starts from', 'SLA')[2:4] == ['–', '–']
    rows = [
        row_of(section, name, 'SLA')
        for name in ('closest to the LayerNorm', 'new', 'new, statistics frozen')
    ]
    assert [row[0] for row in rows] == ['31.0', '29.0', '1.0']
    # Seed 0 of the start is 30.
    assert [row[2:4] for row in rows] == [
        ['+1.0 (one seed)', '+2.0 (one seed)'],
        ['-1.0 (one seed)', '–'],
        ['-29.0 (one seed)', '-28.0 (one seed)'],
    ]


def test_calibration_is_compared_with_the_same_seeds_as_trained(finished):
    cell = next(
        cell
        for cell in grid.calibration_cells()
        if (cell.norm, cell.attention) == ('PRepBN', 'SLA')
    )
    for seed, ap in ((1, 0.34), (2, 0.37)):
        fake_result(finished / 'runs', cell, seed, ap)
        path = runs.run_folder(finished / 'runs', cell.name, seed) / 'result.json'
        result = json.loads(path.read_text())
        path.write_text(json.dumps(dict(result, calibration=dict(mean_change=seed / 10))))
    report.write_report(finished / 'docs.md', finished / 'runs')
    section = (finished / 'docs.md').read_text().split('## Recomputed statistics')[1]
    # Seeds 1 and 2 as trained: 33 and 35. Differences 1 and 2, t of 1 degree of freedom 12.706.
    assert row_of(section, 'PRepBN', 'SLA') == [
        '34.0 ± 1.4',
        '35.5 ± 2.1',
        '+1.5 ± 6.4',
        '0.20',
        '1 2',
    ]


def test_a_band_covers_the_iterations_that_all_runs_share():
    steps, values = curves.band(
        [
            [{'step': 1, 'loss': 3.0}, {'step': 2, 'loss': 2.0}],
            [{'step': 2, 'loss': 4.0}, {'step': 3, 'loss': 1.0}],
        ],
        'loss',
    )
    assert steps.tolist() == [2] and values.tolist() == [[2.0], [4.0]]
