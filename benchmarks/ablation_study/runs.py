"""One run of the ablation: training in this process, its result file, and what is left of it."""

import fcntl
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from slab_det.cli import InputError, write_checkpoint, write_text

from .grid import CALIBRATION_IMAGES, Cell, iterations, make_config

#: Names in mmengine's scalars -> in result files.
METRICS = {
    f'coco/{kind}_mAP{at}': f'{kind}_AP{at.strip("_")}'
    for kind in ('bbox', 'segm')
    for at in ('', '_50')
}


def run_folder(work_dir: Path, cell: str, seed: int) -> Path:
    return Path(work_dir) / cell / f'seed{seed}'


def read_result(work_dir: Path, cell: str, seed: int) -> dict[str, Any] | None:
    """The result file of a finished run; None where there is none."""
    path = run_folder(work_dir, cell, seed) / 'result.json'
    return json.loads(path.read_text()) if path.exists() else None


def is_finished(work_dir: Path, cell: Cell, seed: int) -> bool:
    """Whether the run has a result.

    Raises:
        InputError: it has one that was trained under other settings.
    """
    result = read_result(work_dir, cell.name, seed)
    if result is None:
        return False
    expected = dict(asdict(cell), iterations=iterations(cell))
    found = {key: result['settings'].get(key) for key in expected}
    if found != expected:
        differing = ', '.join(
            f'{key}={found[key]} instead of {expected[key]}'
            for key in expected
            if found[key] != expected[key]
        )
        raise InputError(
            f'{run_folder(work_dir, cell.name, seed)}/result.json was trained with {differing}: '
            'give another --work-dir, or remove that folder to train it again'
        )
    return True


@contextmanager
def only_once(folder: Path) -> Iterator[None]:
    """Hold the folder of a run; raises InputError where another process trains in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / 'lock', 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f'--work-dir: another process trains in {folder}; wait for its end'
            ) from None
        yield


def train(work_dir: Path, cell: Cell, seed: int, threads: int, machine: str) -> None:
    """Train one run from its last checkpoint, or from the start, and write its result file.

    Args:
        machine: what it is trained on, for the result file.

    Raises:
        InputError: another process trains it, or the checkpoint that it starts from is missing.
    """
    folder = run_folder(work_dir, cell.name, seed)
    with only_once(folder):
        if is_finished(work_dir, cell, seed):
            return
        result = _train(work_dir, cell, seed, threads, folder)
        write_result(folder, dict(result, threads=threads, machine=machine))
        for checkpoint in folder.glob('iter_*.pth'):
            checkpoint.unlink()


def _train(work_dir: Path, cell: Cell, seed: int, threads: int, folder: Path) -> dict[str, Any]:
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    start = None
    if cell.start:
        start = run_folder(work_dir, cell.start, seed) / 'final.pth'
        if not start.exists():
            raise InputError(
                f'--run {cell.name} starts from {start}, which is missing: run {cell.start} first'
            )
    if cell.study == 'calibration':
        return _calibrate(cell, seed, folder, start)

    from mmengine.runner import Runner

    whole = not (folder / 'last_checkpoint').exists()
    runner = Runner.from_cfg(make_config(cell, seed, folder, start))
    runner.train()
    curves = read_curves(folder)
    total = iterations(cell)
    final = next((row for row in curves['evaluations'] if row['step'] == total), None)
    if final is None:  # it was cut between its last checkpoint and its last evaluation
        final = {'step': total, **_metrics(runner.val())}
        curves['evaluations'].append(final)
    meta = dict(dataset_meta=runner.val_dataloader.dataset.metainfo)
    content = dict(state_dict=runner.model.state_dict(), meta=meta)
    write_checkpoint(folder / 'final.pth', content, '--work-dir')
    result = dict(
        settings=dict(asdict(cell), seed=seed, iterations=total),
        metrics={key: value for key, value in final.items() if key != 'step'},
        finite=all(math.isfinite(row['loss']) for row in curves['training']),
        # A resumed run has spent the time of another process as well.
        cpu_seconds=time.process_time() if whole else None,
        curves=curves,
    )
    if cell.study == 'padding':
        # Over the images it is evaluated on, one by one: what the statistics should have been. The
        # neck's BatchNorm counts padding with and without the hook.
        result['calibration'] = _recompute(
            make_config(cell, seed, folder / 'recomputed'),
            folder / 'final.pth',
            lambda: runner.val_dataloader,
            part='backbone.',
        )
    return result


def _calibrate(cell: Cell, seed: int, folder: Path, start: Path) -> dict[str, Any]:
    """Recompute the statistics of the detector ``start`` and evaluate it."""
    from slab_det.mm.hooks.calibration_data import calibration_loader, images_as_tested

    cfg = make_config(replace(cell, study='grid', start=None), seed, folder)

    def images():
        return calibration_loader(
            images_as_tested(cfg.train_dataloader, cfg.val_dataloader), CALIBRATION_IMAGES
        )

    found = _recompute(cfg, start, images)
    return dict(
        settings=dict(asdict(cell), seed=seed, iterations=0),
        metrics=found.pop('metrics'),
        finite=True,
        cpu_seconds=time.process_time(),
        curves=dict(training=[], evaluations=[]),
        calibration=found,
    )


def _recompute(
    cfg, checkpoint: Path, images: Callable[[], Iterable], part: str = ''
) -> dict[str, Any]:
    """Make the statistics of a detector those of ``images`` and evaluate it.

    Args:
        images: returns the batches, once the Runner has made mmdet's transforms known.
        part: the largest changes are over norms whose name begins with it.
    """
    import torch
    from mmengine.runner import Runner

    from slab_det.statistics.calibration import calibrate_batch_norm

    cfg.resume = False  # or the evaluation begins with the last checkpoint
    runner = Runner.from_cfg(cfg)
    runner.model.load_state_dict(
        torch.load(checkpoint, map_location='cpu', weights_only=True)['state_dict']
    )
    report = calibrate_batch_norm(runner.model, images())
    print(report.summary())
    means, variances = (
        [change for name, change in changes.items() if name.startswith(part)]
        for changes in (report.mean_change, report.var_change)
    )
    return dict(
        images=report.batches,
        passes=report.passes,
        residual=report.residual,
        mean_change=max(means),
        var_change=max(variances),
        metrics=_metrics(runner.val()),
    )


def write_result(folder: Path, result: dict[str, Any]) -> None:
    write_text(folder / 'result.json', json.dumps(result), '--work-dir')


def read_curves(folder: Path) -> dict[str, list[dict[str, float]]]:
    """Loss and ratio by iteration, and every evaluation, from mmengine's scalars.

    A resumed run has several of these files; what was done again counts as it was last.
    """
    training, evaluations = {}, {}
    for path in sorted(folder.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if 'loss' in row:
                training[row['step']] = {
                    'step': row['step'],
                    'loss': row['loss'],
                    'lr': row['lr'],
                    **({'ratio': row['prepbn_ratio']} if 'prepbn_ratio' in row else {}),
                }
            elif 'coco/bbox_mAP' in row:
                evaluations[row['step']] = {'step': row['step'], **_metrics(row)}
    return dict(
        training=[training[step] for step in sorted(training)],
        evaluations=[evaluations[step] for step in sorted(evaluations)],
    )


def _metrics(scalars: dict[str, float]) -> dict[str, float]:
    return {name: scalars[key] for key, name in METRICS.items() if key in scalars}
