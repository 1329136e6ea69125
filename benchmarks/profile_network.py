"""Where the time of a network goes: python benchmarks/profile_network.py [NETWORK] [--size
800x1216] [--dtype bf16]

Prints a Markdown table with the time of each kind of operation and its share, measured by
torch's profiler over several runs. What no kind names stands in the last row.
"""

import argparse
import sys

import torch
from latency import machine
from measure import Case, Size
from peers import BASELINE, available, build
from torch.profiler import ProfilerActivity, profile

#: Operations by what they do; names are those of torch's profiler, without ``aten::``.
KINDS: dict[str, tuple] = {
    'matrix products': ('addmm', 'mm', 'bmm', 'baddbmm', 'mkldnn_linear', '_mkl_linear'),
    'convolutions': (
        'mkldnn_convolution',
        'thnn_conv2d',
        '_slow_conv2d_forward',
        'convolution_overrideable',
    ),
    'softmax attention': (
        '_scaled_dot_product_flash_attention_for_cpu',
        '_scaled_dot_product_efficient_attention',
        '_flash_attention_forward',
        '_softmax',
    ),
    'copies and gathers': (
        'copy_',
        'index_select',
        'index',
        'index_copy_',
        'index_put_',
        '_index_put_impl_',
        'gather',
        'cat',
        'constant_pad_nd',
        'roll',
        'im2col',
        'fill_',
        'zero_',
    ),
    'GELU and ReLU': ('gelu', 'relu', 'relu_', 'clamp_min'),
    'sums and products': (
        'add',
        'add_',
        'mul',
        'mul_',
        'div',
        'div_',
        'sub',
        'sum',
        'mean',
        'addcmul',
        'reciprocal',
    ),
    'norms': ('native_layer_norm', 'native_batch_norm', 'native_group_norm'),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'networks',
        nargs='*',
        default=[BASELINE, 'SLAB-Swin-T, deployed', 'Swin-T PRepBN, deployed'],
        help='as in the tables of benchmarks/latency.py',
    )
    parser.add_argument('--size', type=Size.parse, default=Size(800, 1216), help='height x width')
    parser.add_argument('--dtype', default='float32', choices=['float32', 'bf16', 'fp16'])
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--threads', type=int, default=2, help='CPU threads')
    parser.add_argument('--runs', type=int, default=5, help='profiled runs, after one to warm up')
    return parser.parse_args()


def measure(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Return milliseconds of one run by kind of operation."""
    run = Case('backbone', 'eager', args.dtype, args.size, 1, args.device).prepare(
        build('backbone', name)
    )
    run()
    cuda = args.device == 'cuda'
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda) as profiler:
        for _ in range(args.runs):
            run()
    spent = dict.fromkeys([*KINDS, 'all else'], 0.0)
    kind_of = {f'aten::{name}': kind for kind, names in KINDS.items() for name in names}
    for event in profiler.key_averages():
        microseconds = event.self_device_time_total if cuda else event.self_cpu_time_total
        spent[kind_of.get(event.key, 'all else')] += microseconds / 1e3 / args.runs
    return spent


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    known = available('backbone', lambda line: None)
    for name in args.networks:
        if name not in known:
            sys.exit(f'error: networks: {name!r} is none of {", ".join(map(repr, known))}')
    results = {name: measure(name, args) for name in args.networks}
    print(f'{machine(args.device, args.threads)}; {args.size}, {args.dtype}\n')
    print('| ms per run | ' + ' | '.join(results) + ' |')
    print('| --- |' + ' ---: |' * len(results))
    for kind in [*KINDS, 'all else']:
        cells = [
            f'{spent[kind]:.0f} ({spent[kind] / sum(spent.values()):.0%})'
            for spent in results.values()
        ]
        print('| ' + ' | '.join([kind, *cells]) + ' |')
    print(
        '| all | ' + ' | '.join(f'{sum(spent.values()):.0f}' for spent in results.values()) + ' |'
    )


if __name__ == '__main__':
    main(parse_args())
