"""Write the re-parameterized detector: python tools/reparameterize.py CONFIG CHECKPOINT --out DIR

DIR receives NAME_deploy.pth and NAME_deploy.py, which tools/test.py and mmdet's init_detector load.
"""

import argparse
from pathlib import Path

from slab_det.cli import (
    add_config_arguments,
    add_part,
    add_shape,
    check_model,
    load_detector,
    print_table,
    run,
    user_input,
    writable_folder,
    write_checkpoint,
    write_text,
)
from slab_det.errors import SlabDetError

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
    add_shape(parser, 'the image for which multiply-adds are counted')
    add_part(parser)
    return parser.parse_args()


def largest_difference(trained, deployed) -> tuple:
    """Return the largest difference between feature maps, absolute and relative to the maximum."""
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

    costs = {
        name: backbone_cost(model.backbone, tuple(shape))
        for name, model in (('trained', trained), ('deployed', deployed))
    }
    print_table(
        (f'backbone at {shape[0]} x {shape[1]}', 'parameters', 'multiply-adds'),
        [
            (name, f'{cost.parameters / 1e6:.2f} M', f'{cost.multiply_adds / 1e9:.2f} G')
            for name, cost in costs.items()
        ],
    )


def main(args: argparse.Namespace) -> None:
    folder = writable_folder(args.out, '--out')
    cfg, model, content = load_detector(args)

    from slab_det.deploy import UnfinishedRatioError, reparameterize
    from slab_det.mm.deploy_config import deploy_config

    with user_input(f'{args.config} with {args.checkpoint}', SlabDetError):
        try:
            deployed = reparameterize(model, drop_layer_norm=args.drop_layer_norm)
        except UnfinishedRatioError as error:
            remedy = 'pass --drop-layer-norm to do without it'
            raise UnfinishedRatioError(error.ratio, remedy, error.norm) from error
    new_cfg = deploy_config(cfg)
    twin = check_model(new_cfg, 'the deploy config')
    twin.load_state_dict(deployed.state_dict())
    twin.eval()

    absolute, relative = largest_difference(model, twin)
    print(
        f'largest difference of the feature maps: {absolute:.3g}, {relative:.3g} of the largest '
        'value'
    )
    if args.drop_layer_norm:
        print('  (--drop-layer-norm: it includes what the LayerNorm branch contributed)')
    print_costs(model, twin, args.shape)

    name = Path(args.config).stem
    checkpoint, config = folder / f'{name}_deploy.pth', folder / f'{name}_deploy.py'
    meta = {key: value for key, value in (content.get('meta') or {}).items() if key != 'cfg'}
    write_checkpoint(checkpoint, dict(state_dict=twin.state_dict(), meta=meta), '--out')
    write_text(config, new_cfg.pretty_text, '--out')
    print(f'wrote {checkpoint}\nwrote {config}')


if __name__ == '__main__':
    run(main, parse_args())
