"""Latency and memory beside the transformers that SLAB replaces.

    python benchmarks/latency.py --parts backbone --modes eager --out docs/benchmark.md

All networks of a table run in one process and take turns, so that whatever slows the machine
slows all of them; the ratio to mmdet's Swin-T is what counts.
"""

import argparse
import json
import os
import platform
import shlex
import sys
from pathlib import Path

import torch
from measure import Case, Size, alternate, busy_host, measure_child, peak_memory
from peers import BASELINE, available, build

from slab_det.cli import write_text


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        '--parts', nargs='+', default=['backbone'], choices=['backbone', 'detector', 'training']
    )
    parser.add_argument('--modes', nargs='+', default=['eager'], choices=['eager', 'compile'])
    parser.add_argument(
        '--dtypes', nargs='+', default=['float32'], choices=['float32', 'bf16', 'fp16']
    )
    parser.add_argument(
        '--sizes',
        nargs='+',
        type=Size.parse,
        default=[Size(800, 1216)],
        metavar='SIZE',
        help='height x width (default: 800x1216)',
    )
    parser.add_argument(
        '--batch', type=int, default=None, help='images per run (default: 1, in training 2)'
    )
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--threads', type=int, default=2, help='CPU threads')
    parser.add_argument('--rounds', type=int, default=7, help='timed runs of each network')
    parser.add_argument(
        '--only', nargs='+', help='networks to run beside the baseline, by parts of their names'
    )
    parser.add_argument('--memory', action='store_true', help='measure the peak memory as well')
    parser.add_argument('--out', help='also write the tables to this Markdown file')
    parser.add_argument('--append', action='store_true', help='keep what the file of --out holds')
    parser.add_argument('--child', help=argparse.SUPPRESS)
    return parser.parse_args()


def machine(device: str, threads: int) -> str:
    """Return what the measurements were made on, in a line."""
    cpu = platform.processor() or platform.machine()
    if os.path.exists('/proc/cpuinfo'):
        with open('/proc/cpuinfo') as file:
            lines = file.read().splitlines()
        cpu = next((line.split(': ', 1)[1] for line in lines if line.startswith('model name')), cpu)
        flags = next((line for line in lines if line.startswith('flags')), '').split()
        cpu += ' with ' + (
            ', '.join(
                f
                for f in ('avx512f', 'avx512_vnni', 'avx512_bf16', 'amx_bf16', 'amx_int8')
                if f in flags
            )
            or 'none of AVX-512 and AMX'
        )
    if device == 'cuda':
        cpu = f'{torch.cuda.get_device_name()}; host {cpu}'
    return f'{cpu}; {threads} threads; torch {torch.__version__}; {platform.system()}'


def table(case: Case, args: argparse.Namespace) -> str:
    """Measure one case and return its Markdown table."""

    def log(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    log(str(case))
    names = [
        name
        for name in available(case.part, log)
        if name == BASELINE or not args.only or any(word in name for word in args.only)
    ]
    runs, failed = {}, {}
    for name in names:
        try:
            runs[name] = case.prepare(build(case.part, name))
            runs[name]()
        except Exception as error:  # a compiler may fail in any way; the table says how
            runs.pop(name, None)
            reason = next(
                (line for line in str(error).splitlines() if 'rror' in line),
                str(error).split('\n')[0],
            )
            failed[name] = f'{type(error).__name__}: {reason.strip()[:120]}'
            log(f'  {name} failed: {failed[name]}')
    if case.mode == 'compile':
        # The peers' eager baseline runs along, so that the ratio is to what a user has today.
        eager = Case(case.part, 'eager', 'float32', case.size, case.batch, case.device)
        runs[f'{BASELINE} (eager, float32)'] = eager.prepare(build(case.part, BASELINE))
    elif case.dtype != 'float32':
        eager = Case(case.part, 'eager', 'float32', case.size, case.batch, case.device)
        runs[f'{BASELINE} (eager, float32)'] = eager.prepare(build(case.part, BASELINE))
    baseline = (
        f'{BASELINE} (eager, float32)' if f'{BASELINE} (eager, float32)' in runs else BASELINE
    )
    times = alternate(runs, args.rounds, log)
    unit = times[baseline].median
    memory = {}
    if args.memory and case.mode == 'eager':
        for name in names:
            memory[name] = peak_memory(os.path.abspath(__file__), case, name, args.threads)
            log(f'  {name}: {memory[name]:.0f} MiB')
    lines = [
        f'### {case}',
        '',
        '| network | median ms | fastest ms | ratio | peak MiB | ratio |',
        '| --- | ---: | ---: | ---: | ---: | ---: |',
    ]
    for name, runs_of in times.items():
        cells = [
            name,
            f'{runs_of.median * 1e3:.1f}',
            f'{runs_of.fastest * 1e3:.1f}',
            f'{runs_of.median / unit:.2f}',
        ]
        cells += (
            [f'{memory[name]:.0f}', f'{memory[name] / memory[BASELINE]:.2f}']
            if name in memory
            else ['', '']
        )
        lines.append('| ' + ' | '.join(cells) + ' |')
    lines += [f'| {name} | {reason} | | | | |' for name, reason in failed.items()]
    return '\n'.join(lines + busy_host(times))


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    if args.child:
        wish = json.loads(args.child)
        torch.set_num_threads(wish.pop('threads'))
        name = wish.pop('name')
        print(measure_child(build(wish['part'], name), Case(**wish)))
        return
    if args.device == 'cuda' and not torch.cuda.is_available():
        sys.exit('error: --device cuda: torch finds no GPU; use --device cpu')
    tables: list[str] = []
    for part in args.parts:
        batch = args.batch or (2 if part == 'training' else 1)
        for mode in args.modes:
            for dtype in args.dtypes:
                for size in args.sizes:
                    tables.append(table(Case(part, mode, dtype, size, batch, args.device), args))
                    print('\n' + tables[-1] + '\n', flush=True)
    header = [
        f'Measured by `python benchmarks/latency.py {shlex.join(sys.argv[1:])}` on',
        '',
        f'> {machine(args.device, args.threads)}',
        '',
        f'Ratios are to {BASELINE}; peak memory is above the size before the first forward pass.',
    ]
    if args.out:
        text = '\n'.join(header) + '\n\n' + '\n\n'.join(tables) + '\n'
        if args.append and os.path.exists(args.out):
            text = f'{Path(args.out).read_text()}\n{text}'
        write_text(args.out, text, '--out')
        print(f'wrote {args.out}')


if __name__ == '__main__':
    main(parse_args())
