"""Writes the re-parameterized detector: python tools/reparameterize.py CONFIG CHECKPOINT --out DIR

DIR receives NAME_deploy.pth and NAME_deploy.py, which tools/test.py and mmdet's init_detector take.
"""

import argparse
from pathlib import Path

from slab_det.cli import (
    InputError,
    add_config_arguments,
    check_checkpoint,
    check_fit,
    check_model,
    load_config,
    read_checkpoint,
    run,
    writable_folder,
    write_checkpoint,
    write_text,
)

#: Images, height x width, that the networks are compared on: whole windows, and odd.
SIZES = ((224, 224), (250, 333))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Fold the norms of a trained detector into its linear layers'
    )
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file of the trained detector')
    parser.add_argument(
        '--out', required=True, metavar='DIR', help='folder for the checkpoint and the config'
    )
    parser.add_argument(
        '--drop-layer-norm',
        action='store_true',
        help='set a ratio that is not 0 to 0 first; this changes the outputs',
    )
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        default=(800, 1216),
        metavar=('H', 'W'),
        help='image size for the multiply-adds (default: 800 1216)',
    )
    return parser.parse_args()


def largest_difference(trained, deployed) -> tuple:
    """Returns the largest difference between the feature maps, absolute and relative to the largest value."""
    import torch

    absolute = relative = 0.0
    with torch.no_grad():
        for size in SIZES:
            image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
            for before, after in zip(trained.extract_feat(image), deployed.extract_feat(image)):
                difference = (after - before).abs().max().item()
                absolute = max(absolute, difference)
                relative = max(relative, difference / max(before.abs().max().item(), 1e-12))
    return absolute, relative


def print_costs(trained, deployed, shape) -> None:
    from slab_det.mm.analysis import backbone_cost

    print(f'backbone at {shape[0]} x {shape[1]}    parameters    multiply-adds')
    for name, model in (('trained', trained), ('deployed', deployed)):
        cost = backbone_cost(model.backbone, tuple(shape))
        print(f'  {name:<22} {cost.parameters / 1e6:>8.2f} M {cost.multiply_adds / 1e9:>12.2f} G')


def main(args: argparse.Namespace) -> None:
    cfg = load_config(args.config, args.cfg_options)
    check_checkpoint(args.checkpoint, 'checkpoint')
    folder = writable_folder(args.out, '--out')

    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    from slab_det.deploy import UnfinishedRatioError, reparameterize
    from slab_det.mm.deploy_config import deploy_config

    register_all_modules(init_default_scope=True)
    model = check_model(cfg, args.config)
    check_fit(args.checkpoint, model, 'checkpoint')
    content = read_checkpoint(args.checkpoint, 'checkpoint')
    model.load_state_dict(content.get('state_dict', content), strict=False)
    model.eval()
    try:
        deployed = reparameterize(model, drop_layer_norm=args.drop_layer_norm)
    except UnfinishedRatioError as error:
        told = UnfinishedRatioError(
            error.ratio, 'pass --drop-layer-norm to do without it', error.norm
        )
        raise InputError(f'{args.config} with {args.checkpoint}: {told}') from error
    except ValueError as error:
        raise InputError(f'{args.config} with {args.checkpoint}: {error}') from error
    new_cfg: Config = deploy_config(cfg)
    twin = check_model(new_cfg, 'the deploy config')
    twin.load_state_dict(deployed.state_dict())
    twin.eval()

    absolute, relative = largest_difference(model, twin)
    print(
        f'largest difference of the feature maps: {absolute:.3g}, {relative:.3g} of the largest value'
    )
    if args.drop_layer_norm:
        print('  (--drop-layer-norm: it includes what the LayerNorm branch contributed)')
    print_costs(model, twin, args.shape)

    name = Path(args.config).stem
    checkpoint, config = folder / f'{name}_deploy.pth', folder / f'{name}_deploy.py'
    meta = {key: value for key, value in (content.get('meta') or {}).items() if key != 'cfg'}
    weights = dict(state_dict=twin.state_dict(), meta=meta)
    write_checkpoint(checkpoint, weights, '--out')
    write_text(config, new_cfg.pretty_text, '--out')
    print(f'wrote {checkpoint}\nwrote {config}')


if __name__ == '__main__':
    run(main, parse_args())
