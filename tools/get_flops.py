"""Count parameters and multiply-adds: python tools/get_flops.py CONFIG [--shape H W]"""

import argparse
import warnings

from slab_det.cli import (
    InputError,
    add_config_arguments,
    add_shape,
    check_model,
    file_name,
    load_config,
    markdown_table,
    print_table,
    run,
    user_input,
    write_text,
)

CONVENTIONS = (
    'For one image of {height} x {width} pixels (height x width, resized and padded). A '
    'multiplication with its addition counts as 1, in matrix products and convolutions; norms, '
    'activations, softmax, interpolation and sampling do not count. "in attention" are the '
    'products of activations with activations.'
)
PROPOSALS = ' The second stage gets {number} proposals.'
COLUMNS = ('part', 'parameters', 'multiply-adds', 'in attention')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Count the parameters and multiply-adds of a detector, attention included'
    )
    add_config_arguments(parser)
    add_shape(parser, 'the image')
    parser.add_argument('--backbone-only', action='store_true', help='count the backbone alone')
    parser.add_argument(
        '--out',
        type=file_name('.md'),
        metavar='FILE.md',
        help='also write the table to this file, as Markdown',
    )
    return parser.parse_args()


def count(args: argparse.Namespace) -> tuple:
    """Return the costs by part, and the number of proposals of a second stage or None."""
    from mmdet.utils import register_all_modules

    from slab_det.mm.analysis import backbone_cost, detector_cost, proposals_of

    cfg = load_config(args.config, args.cfg_options)
    register_all_modules(init_default_scope=True)
    model = check_model(cfg, args.config)
    kind, shape = type(model).__name__, tuple(args.shape)
    if args.backbone_only and not hasattr(model, 'backbone'):
        raise InputError(f'--backbone-only: the {kind} of {args.config} has no backbone')
    with (
        user_input(f'the model of {args.config} cannot run at --shape {shape[0]} {shape[1]}'),
        user_input(
            f'the {kind} of {args.config} can only be counted with --backbone-only',
            NotImplementedError,
        ),
    ):
        if args.backbone_only:
            return {'backbone': backbone_cost(model.backbone, shape)}, None
        return detector_cost(model, shape), proposals_of(model)


def rows_of(costs: dict) -> list:
    from slab_det.mm.analysis import Cost

    parts = {name or 'other': cost for name, cost in costs.items()}
    if len(parts) > 1:
        parts['all'] = sum(costs.values(), Cost())
    return [
        (
            name,
            f'{cost.parameters / 1e6:.2f} M',
            f'{cost.multiply_adds / 1e9:.2f} G',
            f'{cost.attention / 1e9:.2f} G',
        )
        for name, cost in parts.items()
    ]


def main(args: argparse.Namespace) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        costs, proposals = count(args)
    notes = CONVENTIONS.format(height=args.shape[0], width=args.shape[1])
    if proposals:
        notes += PROPOSALS.format(number=proposals)
    rows = rows_of(costs)
    print(f'{args.config}\n')
    print_table(COLUMNS, rows)
    print(f'\n{notes}')
    if args.out is not None:
        table = markdown_table(COLUMNS, rows)
        write_text(args.out, f'`{args.config}`\n\n{table}\n\n{notes}\n', '--out')


if __name__ == '__main__':
    run(main, parse_args())
