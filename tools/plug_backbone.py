"""Put a SLAB backbone into an existing detection config.

    python tools/plug_backbone.py mmdet::retinanet/retinanet_r50_fpn_1x_coco.py \\
        --backbone slab-swin-t --out configs/retinanet_slab-swin-t.py

Writes a config that inherits CONFIG and holds what the backbone changes, after the detector was
built from it and trained for one step on made-up images; prints what changed, and what could not
be adapted. docs/plug-in.md says how.
"""

import argparse
import os
import tempfile
import warnings
from pathlib import Path

from slab_det.cli import (
    InputError,
    add_traceback,
    check_data,
    load_config,
    run,
    writable_folder,
    write_text,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'config', help='config file, or PACKAGE::NAME such as mmdet::atss/atss_r50_fpn_1x_coco.py'
    )
    parser.add_argument(
        '--backbone',
        required=True,
        help='its name, such as slab-swin-t, slab-pvt-s, slab-pvt-v2-b0, '
        'slab-deit-t, slab-cswin-t or swin-t-prepbn',
    )
    parser.add_argument(
        '--norm',
        choices=('prepbn', 'repbn', 'ln'),
        default='prepbn',
        help='norm of the backbone (default: prepbn)',
    )
    parser.add_argument(
        '--attn',
        metavar='LETTERS',
        help='attention stage by stage, L linear and S softmax, such as '
        'LLSS (default: that of the name)',
    )
    parser.add_argument(
        '--checkpoint',
        help='weights of the backbone to start from: a path, timm://NAME, or an '
        'address; published SLAB files, LayerNorm ones of the same family, whole detectors',
    )
    parser.add_argument('--out', required=True, metavar='NEW_CONFIG', help='config to write (.py)')
    parser.add_argument('--force', action='store_true', help='replace NEW_CONFIG if it exists')
    parser.add_argument(
        '--no-check', action='store_true', help='write it without the training step'
    )
    add_traceback(parser)
    args = parser.parse_args()
    if not args.out.endswith('.py'):
        parser.error(f'--out takes a name that ends in .py, got {args.out!r}')
    return args


def check_output(args: argparse.Namespace) -> None:
    if (
        os.path.exists(args.out)
        and os.path.exists(args.config)
        and os.path.samefile(args.config, args.out)
    ):
        raise InputError(f'--out {args.out} is the config itself: give another name')
    if os.path.isdir(args.out):
        raise InputError(f'--out {args.out} is a folder: give the name of a config')
    if os.path.exists(args.out) and not args.force:
        raise InputError(f'--out {args.out} exists: give another name, or --force to replace it')
    folder = os.path.dirname(os.path.abspath(args.out))
    writable_folder(folder, '--out')


def weights_of(checkpoint: str) -> dict:
    """Return the ``init_cfg`` for a checkpoint, of a backbone or of a whole detector."""
    from slab_det.checkpoints import select_state_dict
    from slab_det.mm.backbones.sources import open_checkpoint

    init_cfg = dict(type='Pretrained', checkpoint=checkpoint)
    try:
        keys = select_state_dict(open_checkpoint(checkpoint), None)
    except FileNotFoundError as error:
        raise InputError(
            f'--checkpoint {checkpoint} is not a file: give the path of a checkpoint'
        ) from error
    if any(key.startswith('backbone.') for key in keys):
        init_cfg['prefix'] = 'backbone.'
    return init_cfg


def resolved(text: str, base: str, config: str) -> object:
    """Return what the written config will resolve to."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'plugged.py'
        if '::' not in config:
            text = text.replace(f'_base_ = {base!r}', f'_base_ = {os.path.abspath(config)!r}', 1)
        path.write_text(text, encoding='utf-8')
        return load_config(str(path))


def report(plan, trial, args: argparse.Namespace) -> None:
    from slab_det.mm.plug.report import changes_table, notes_text, trial_text

    print(changes_table(plan))
    print(notes_text(plan, trial))
    print(trial_text(trial))
    print(f'wrote {args.out}')


def main(args: argparse.Namespace) -> None:
    check_output(args)
    from mmdet.utils import register_all_modules

    from slab_det.mm.plug import (
        backbone_config,
        base_of,
        changed_settings,
        config_text,
        load_detector,
        make_plan,
        not_adapted,
        train_one_step,
    )

    warnings.simplefilter('ignore')
    register_all_modules(init_default_scope=True)
    try:
        backbone = backbone_config(args.backbone, args.norm, args.attn)
    except InputError as error:  # begins with the name of the argument
        raise InputError(f'--{error}') from error
    cfg = load_detector(args.config)
    # What is not there yet is for the training to miss.
    check_data(cfg, ('train', 'val', 'test'), absent_ok=True)
    weights = weights_of(args.checkpoint) if args.checkpoint else None
    plan = make_plan(cfg, backbone, args.config, weights)
    base = base_of(args.config, args.out)
    head = f'{args.config} with {args.backbone}, written by tools/plug_backbone.py.'
    text = config_text(base, plan.before, plan.after, head)
    new = resolved(text, base, args.config)
    if new.to_dict() != plan.after:
        wrong = list(changed_settings(plan.after, new.to_dict()))
        raise RuntimeError(
            f'the config for {args.out} does not resolve to what was planned, {wrong}:\n{text}'
        )
    try:
        trial = None if args.no_check else train_one_step(new, args.config)
    except InputError as error:
        raise InputError(f'{error}{not_adapted(plan.notes)}') from error
    os.makedirs(os.path.dirname(os.path.abspath(args.out)), exist_ok=True)
    write_text(args.out, text, '--out')
    report(plan, trial, args)


if __name__ == '__main__':
    run(main, parse_args())
