"""Parameters and multiply-adds: python tools/get_flops.py CONFIG [--shape H W] [--backbone-only] [--out FILE]"""

import argparse
import warnings

from slab_det.cli import InputError, add_config_arguments, check_model, load_config, run, write_text

CONVENTIONS = (
    'For one image of {height} x {width} pixels (height x width, resized and padded). A multiplication with its '
    'addition counts as 1, in matrix products and convolutions; norms, activations, softmax, interpolation and '
    'sampling do not count. "of it attention" are the products of activations with activations.'
)
PROPOSALS = ' The second stage gets {number} proposals.'
COLUMNS = ('part', 'parameters', 'multiply-adds', 'of it attention')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Count parameters and multiply-adds of a detector, the products of attention included'
    )
    add_config_arguments(parser)
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        default=(800, 1216),
        metavar=('H', 'W'),
        help='height and width of the image in pixels (default: 800 1216)',
    )
    parser.add_argument('--backbone-only', action='store_true', help='count the backbone alone')
    parser.add_argument(
        '--out', metavar='FILE', help='also write the table here, as Markdown (.md)'
    )
    args = parser.parse_args()
    if min(args.shape) < 1:
        parser.error(
            f'--shape takes a height and a width of at least 1 pixel, got {args.shape[0]} {args.shape[1]}'
        )
    if args.out is not None and not args.out.endswith('.md'):
        parser.error(f'--out takes a name that ends in .md, got {args.out!r}')
    return args


def count(args: argparse.Namespace) -> tuple:
    """Returns (costs by part, number of proposals of a second stage or None)."""
    from mmdet.utils import register_all_modules

    from slab_det.mm.analysis import backbone_cost, detector_cost, proposals_of

    cfg = load_config(args.config, args.cfg_options)
    register_all_modules(init_default_scope=True)
    model = check_model(cfg, args.config)
    if args.backbone_only and not hasattr(model, 'backbone'):
        raise InputError(
            f'--backbone-only: the {type(model).__name__} of {args.config} has no backbone'
        )
    try:
        if args.backbone_only:
            return {'backbone': backbone_cost(model.backbone, tuple(args.shape))}, None
        return detector_cost(model, tuple(args.shape)), proposals_of(model)
    except NotImplementedError as error:
        raise InputError(
            f'the {type(model).__name__} of {args.config} has no plain forward pass: count its backbone '
            'with --backbone-only'
        ) from error
    except Exception as error:  # whatever a module raises about its input
        raise InputError(
            f'the model of {args.config} cannot run at --shape {args.shape[0]} {args.shape[1]}: '
            f'{type(error).__name__}: {" ".join(str(error).split())}'
        ) from error


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
    from slab_det.cli.tables import markdown_table, text_table

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        costs, proposals = count(args)
    notes = CONVENTIONS.format(height=args.shape[0], width=args.shape[1])
    if proposals:
        notes += PROPOSALS.format(number=proposals)
    rows = rows_of(costs)
    print(f'{args.config}\n\n{text_table(COLUMNS, rows)}\n\n{notes}')
    if args.out is not None:
        write_text(
            args.out, f'`{args.config}`\n\n{markdown_table(COLUMNS, rows)}\n\n{notes}\n', '--out'
        )


if __name__ == '__main__':
    run(main, parse_args())
