"""Draw learning rate and PRepBN ratio over a training that has not begun.

python tools/analysis/plot_schedule.py CONFIG --gpus 8 --auto-scale-lr --out schedule.png
python tools/analysis/plot_schedule.py CONFIG --num-images 117266   # the data is elsewhere
"""

import argparse
import contextlib
import io
import os
import warnings
from pathlib import Path

from slab_det.cli import (
    InputError,
    add_config_arguments,
    built_from,
    check_fit,
    check_hooks,
    check_model,
    choose_work_dir,
    file_name,
    load_config,
    number,
    run,
    whole_file,
    writable_folder,
)


def parse_args(arguments=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Draw learning rate and PRepBN ratio over a config's training, computed by "
        "mmengine's schedulers and PRepBNHook; nothing is trained"
    )
    add_config_arguments(parser)
    parser.add_argument(
        '--out',
        type=file_name('.png', '.svg', '.pdf'),
        metavar='FILE',
        help='picture, .png, .svg or .pdf (default: schedule.png in the work dir)',
    )
    parser.add_argument(
        '--num-images',
        type=number(int, 1),
        metavar='N',
        help='size of the training set (default: counted, which needs the data)',
    )
    parser.add_argument(
        '--gpus',
        type=number(int, 1),
        default=1,
        metavar='N',
        help='processes that train together (default: %(default)s)',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate as tools/train.py --auto-scale-lr does',
    )
    return parser.parse_args(arguments)


def count_images(cfg, config: str) -> int:
    """Length of the training set as the data loader sees it."""
    from mmdet.registry import DATASETS

    from slab_det.cli.data_checks import datasets_of

    dataset = cfg.train_dataloader.dataset
    for setting, one in datasets_of(dataset, 'train_dataloader.dataset'):
        path = os.path.join(one.get('data_root') or '', one['ann_file'])
        if '://' not in path and not os.path.isfile(path):
            raise InputError(
                f'{setting}.ann_file {path} is not there, so that the training images '
                'of the config cannot be counted: give --num-images N (COCO train2017 '
                'without images that have no objects: 117266)'
            )
    with contextlib.redirect_stdout(io.StringIO()):
        return len(DATASETS.build(dataset))


def load_start(cfg, model) -> None:
    """Give the model the weights that training starts from, since they bring the ratio along."""
    from slab_det.checkpoints import is_address
    from slab_det.layers import prepbn_modules
    from slab_det.mm.config_walk import is_pretrained, walk_dicts

    for module in filter(prepbn_modules, model.modules()):
        nodes = [node for _, node in walk_dicts(getattr(module, 'init_cfg', None))]
        files = [node['checkpoint'] for node in nodes if is_pretrained(node)]
        if files and not any(map(is_address, files)):
            module.init_weights()
    if cfg.get('load_from'):
        check_fit(cfg.load_from, model, 'load_from', whole=False)  # fills the model


def draw(schedule, title: str):
    """A figure of two panels: learning rates above, the ratio below."""
    from matplotlib.figure import Figure

    iterations = len(next(iter(schedule.rates.values())))
    figure = Figure(figsize=(9, 5.5 if schedule.ratio is not None else 3.5), layout='constrained')
    rows = 1 if schedule.ratio is None else 2
    panels = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    for rate, values in schedule.rates.items():
        number = schedule.parameters[rate]
        label = f'{number / 1e6:.2f} M' if number >= 1e5 else f'{number / 1e3:.1f} k'
        panels[0].plot(range(iterations), values, linewidth=1.5, label=f'{label} parameters')
    panels[0].set_ylabel('learning rate')
    panels[0].set_ylim(bottom=0)
    panels[0].yaxis.set_major_formatter('{x:.3g}')
    if len(schedule.rates) > 1:
        panels[0].legend(loc='upper right')
    if schedule.ratio is not None:
        panels[1].plot(range(iterations), schedule.ratio, color='tab:red', linewidth=1.5)
        panels[1].set_ylabel('PRepBN ratio\n(share of LayerNorm)')
        panels[1].set_ylim(-0.03, 1.03)
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.set_xlim(0, iterations)
    panels[-1].set_xlabel('iteration')
    if schedule.epoch_length is not None:
        length = schedule.epoch_length
        epochs = panels[0].secondary_xaxis(
            'top', functions=(lambda x: x / length, lambda x: x * length)
        )
        epochs.set_xlabel('epoch')
    figure.suptitle(title, fontsize=10)
    return figure


def describe(schedule) -> str:
    """The schedule in words, one fact a line."""
    iterations = len(next(iter(schedule.rates.values())))
    lines = [f'{iterations} iterations of {schedule.batch_size} images']
    if schedule.epoch_length is not None:
        lines[0] += (
            f', {iterations // schedule.epoch_length} epochs of {schedule.epoch_length} iterations'
        )
    if schedule.accumulation > 1:
        lines.append(
            f'gradients of {schedule.accumulation} iterations accumulate: '
            f'{-(-iterations // schedule.accumulation)} steps of the optimizer'
        )
    for rate, values in schedule.rates.items():
        top = int(values.argmax())
        lines.append(
            f'learning rate {values[0]:.3g} at the start, {values[top]:.3g} at iteration '
            f'{top}, {values[-1]:.3g} at the end '
            f'({schedule.parameters[rate] / 1e6:.2f} M parameters)'
        )
    if schedule.ratio is None:
        lines.append('no PRepBN with a PRepBNHook')
    else:
        ratio = schedule.ratio
        lines.append(
            f'ratio {ratio[0]:.3g} at the start, {ratio[-1]:.3g} at the end, reached at '
            f'iteration {int((ratio == ratio[-1]).argmax())}'
        )
    return '\n'.join(lines)


def main(args: argparse.Namespace) -> None:
    cfg = load_config(args.config, args.cfg_options)
    if any(cfg.get(key) is None for key in ('train_dataloader', 'train_cfg', 'optim_wrapper')):
        raise InputError(
            f'config {args.config} has no train_dataloader, train_cfg or '
            'optim_wrapper: give a whole config'
        )
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise InputError(
                f'--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in {args.config}'
            )
        cfg.auto_scale_lr.enable = True
    choose_work_dir(cfg, args.config)
    out = Path(args.out or os.path.join(cfg.work_dir, 'schedule.png'))
    writable_folder(out.parent, '--out')
    check_hooks(cfg, args.config)
    model = check_model(cfg, args.config)
    from mmengine.logging import MMLogger
    from mmengine.registry import init_default_scope

    from slab_det.mm.analysis.schedule import training_schedule

    init_default_scope(cfg.get('default_scope', 'mmdet'))
    images = args.num_images or count_images(cfg, args.config)
    with warnings.catch_warnings(), built_from(args.config):
        warnings.simplefilter('ignore')  # that the schedulers step without the optimizer
        logger = MMLogger.get_current_instance()
        level = logger.level
        logger.setLevel('ERROR')  # mmengine tells the decay of every parameter
        try:
            load_start(cfg, model)
            schedule = training_schedule(cfg, model, images, args.gpus)
        finally:
            logger.setLevel(level)
    title = f'{Path(args.config).stem}: {images} images, {schedule.batch_size} per iteration'
    if schedule.accumulation > 1:
        title += f', gradients of {schedule.accumulation} iterations accumulate'
    with whole_file(out, '--out') as part:
        draw(schedule, title).savefig(part, dpi=120)
    print(f'{describe(schedule)}\n{out} written')


if __name__ == '__main__':
    run(main, parse_args())
