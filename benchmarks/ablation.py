"""The paper's ablation in small: what each norm costs in AP, with softmax and with linear
attention.

    BCCD_ROOT=data/bccd python benchmarks/ablation.py --work-dir work_dirs/ablation --out
    docs/ablation.md

LayerNorm, BatchNorm, RepBN and PRepBN, each with softmax and with simplified linear attention, in
one small Swin: RetinaNet on BCCD, and for LayerNorm and PRepBN Mask R-CNN on the built-in data set.
All runs of a data set get the same iterations. A finished run is not repeated, a cut one goes on
from its last checkpoint, and the report is made of what is finished."""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ablation_study.grid import SEEDS, STUDIES, Cell, make_config, select  # noqa: E402
from ablation_study.norms import register as register_plain_batch_norm  # noqa: E402
from ablation_study.runs import is_finished, run_folder, train  # noqa: E402
from latency import machine  # noqa: E402

from slab_det.cli import InputError, add_traceback, check_data, run, writable_folder  # noqa: E402


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        '--study',
        nargs='+',
        default=['grid'],
        choices=list(STUDIES),
        help='what to train (default: the grid of norms and attentions)',
    )
    parser.add_argument(
        '--only',
        nargs='+',
        default=[],
        metavar='WORD',
        help='only cells whose name holds one of these words, such as bccd-PRepBN',
    )
    parser.add_argument('--seeds', nargs='+', type=int, default=list(SEEDS))
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time (default: 1)')
    parser.add_argument(
        '--threads', type=int, default=2, help='CPU threads of each run (default: 2)'
    )
    parser.add_argument(
        '--work-dir',
        type=Path,
        default=Path('work_dirs/ablation'),
        help='where runs keep checkpoints and results (default: work_dirs/ablation)',
    )
    parser.add_argument('--out', type=Path, help='write the report to this Markdown file')
    parser.add_argument(
        '--report-only', action='store_true', help='train nothing, write the report'
    )
    parser.add_argument('--list', action='store_true', help='say which runs are finished, and end')
    parser.add_argument(
        '--run', metavar='CELL', help='train this one cell here, with the one seed of --seeds'
    )
    add_traceback(parser)
    return parser.parse_args()


def chosen_runs(args: argparse.Namespace) -> list[tuple[Cell, int]]:
    """The runs that ``--study``, ``--only`` and ``--seeds`` name, in the order of training."""
    cells = [cell for study in args.study for cell in STUDIES[study]()]
    runs = select(cells, args.only, args.seeds)
    if not runs:
        raise InputError(
            f'--only {" ".join(args.only)} fits no cell of {", ".join(args.study)}: use words of '
            f'{", ".join(cell.name for cell in cells)}'
        )
    return runs


def find_cell(name: str) -> Cell:
    cells = {cell.name: cell for study in STUDIES.values() for cell in study()}
    if name not in cells:
        raise InputError(f'--run {name} is no cell: use one of {", ".join(cells)}')
    return cells[name]


def check_runs(runs: list[tuple[Cell, int]], work_dir: Path) -> None:
    """Check the data of every data set once, before anything is trained."""
    for data in sorted({cell.data for cell, _ in runs}):
        check_data(make_config(Cell(data, 'LN', 'SLA'), 0, work_dir), ('train', 'val'))


def start(cell: Cell, seed: int, args: argparse.Namespace) -> subprocess.Popen:
    folder = run_folder(args.work_dir, cell.name, seed)
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        '--run',
        cell.name,
        '--seeds',
        str(seed),
        '--threads',
        str(args.threads),
        '--work-dir',
        str(args.work_dir),
    ]
    with open(folder / 'output.log', 'a') as log:
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, 'OMP_NUM_THREADS': str(args.threads)},
        )


def train_all(runs: list[tuple[Cell, int]], args: argparse.Namespace) -> list[str]:
    """Train what is not finished, ``--jobs`` at a time; return the names of the runs that
    failed."""
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # so that the runs end with this process
    waiting = [(cell, seed) for cell, seed in runs if not is_finished(args.work_dir, cell, seed)]
    print(f'{len(runs) - len(waiting)} of {len(runs)} runs are finished', flush=True)
    running, failed = {}, []
    try:
        while waiting or running:
            while waiting and len(running) < args.jobs:
                cell, seed = waiting.pop(0)
                running[start(cell, seed, args)] = cell, seed, time.time()
            time.sleep(1)
            for process in [process for process in running if process.poll() is not None]:
                cell, seed, began = running.pop(process)
                name = f'{cell.name} seed {seed}'
                if process.returncode:
                    failed.append(name)
                    folder = run_folder(args.work_dir, cell.name, seed)
                    print(f'{name} failed, see {folder}/output.log', flush=True)
                else:
                    print(
                        f'{name} finished after {time.time() - began:.0f} s, {len(waiting)} wait',
                        flush=True,
                    )
    finally:
        for process in running:
            process.terminate()
    return failed


def main(args: argparse.Namespace) -> None:
    for name in ('jobs', 'threads'):
        if getattr(args, name) < 1:
            raise InputError(f'--{name} {getattr(args, name)} must be at least 1')
    writable_folder(args.work_dir, '--work-dir')
    if args.run:
        if len(args.seeds) != 1:
            raise InputError(f'--run {args.run} takes one seed: give --seeds SEED')
        train(
            args.work_dir,
            find_cell(args.run),
            args.seeds[0],
            args.threads,
            machine('cpu', args.threads),
        )
        return
    runs = chosen_runs(args)
    if args.list:
        for cell, seed in runs:
            print(
                'finished' if is_finished(args.work_dir, cell, seed) else 'missing ',
                cell.name,
                'seed',
                seed,
            )
        return
    failed = []
    if not args.report_only:
        check_runs(runs, args.work_dir)
        failed = train_all(runs, args)
    if args.out:
        from ablation_study.report import write_report

        write_report(args.out, args.work_dir)
        print(f'wrote {args.out}')
    if failed:
        raise InputError(
            f'--work-dir {args.work_dir}: {len(failed)} runs failed: {", ".join(failed)}'
        )


if __name__ == '__main__':
    # Not in main(): for a test that calls it, and for those beside it, plain BatchNorm is no norm.
    register_plain_batch_norm()
    run(main, parse_args())
