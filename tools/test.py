"""Evaluate a detector: python tools/test.py CONFIG CHECKPOINT [--out FILE.pkl] [--show-dir DIR]"""

import argparse
from copy import deepcopy

from slab_det.cli import (
    InputError,
    add_runner_arguments,
    check_checkpoint,
    check_data,
    check_fit,
    check_model,
    check_trained,
    choose_work_dir,
    file_name,
    load_config,
    number,
    read_checkpoint,
    run,
    runner_of,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Evaluate a detector')
    add_runner_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out',
        type=file_name('.pkl', '.pickle'),
        metavar='FILE.pkl',
        help='write the predictions to this pickle file',
    )
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument(
        '--show-dir',
        help='draw the predictions into this folder, inside the time-stamped one of the work dir',
    )
    parser.add_argument(
        '--wait-time',
        type=number(float, 0),
        default=2,
        help='seconds for which each picture is shown (default: %(default)s)',
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help='average over the inputs of tta_pipeline, or over flips if the config has none',
    )
    return parser.parse_args()


def draw_predictions(cfg, args: argparse.Namespace) -> None:
    """Turn on mmdet's DetVisualizationHook."""
    from slab_det.mm.config_walk import kind_of
    from slab_det.mm.visualization.hook import PathVisualizationHook

    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise InputError(
            '--show and --show-dir need default_hooks.visualization='
            f"dict(type='DetVisualizationHook') in {args.config}"
        )
    hook.update(draw=True, show=args.show, wait_time=args.wait_time)
    if args.show_dir:
        hook.test_out_dir = args.show_dir
    if kind_of(hook) == 'DetVisualizationHook':
        hook.type = PathVisualizationHook


def test_with_augmentation(cfg, model) -> None:
    """Wrap model and pipeline for test-time augmentation, by default with horizontal flips."""
    from slab_det.cli.data_checks import datasets_of

    if getattr(model, 'with_mask', False):
        raise InputError(
            f'--tta: mmdet averages boxes only, and the {type(model).__name__} of this config also '
            'predicts masks: leave --tta out'
        )
    if cfg.get('tta_model') is None:
        cfg.tta_model = dict(
            type='DetTTAModel',
            tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
        )
    path = 'test_dataloader.dataset'
    datasets = [one for _, one in datasets_of(cfg.test_dataloader.dataset, path)]
    if cfg.get('tta_pipeline') is None:
        pipeline = datasets[0].pipeline
        pack = deepcopy(pipeline[-1])
        pack.meta_keys = (
            'img_id',
            'img_path',
            'ori_shape',
            'img_shape',
            'scale_factor',
            'flip',
            'flip_direction',
        )
        flips = [dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)]
        cfg.tta_pipeline = [
            *pipeline[:-1],
            dict(type='TestTimeAug', transforms=[flips, [pack]]),
        ]
    cfg.model = dict(**cfg.tta_model, module=cfg.model)
    for dataset in datasets:
        dataset.pipeline = cfg.tta_pipeline


def main(args: argparse.Namespace) -> None:
    cfg = load_config(args.config, args.cfg_options)
    cfg.load_from, cfg.resume = args.checkpoint, False
    check_checkpoint(args.checkpoint, 'checkpoint')
    if args.show or args.show_dir:
        draw_predictions(cfg, args)
    choose_work_dir(cfg, args.config, args.work_dir)
    check_data(cfg, ('test',), decode=args.check_images)
    model = check_model(cfg, args.config)
    check_fit(args.checkpoint, model, 'checkpoint')
    if '://' not in args.checkpoint:
        content = read_checkpoint(args.checkpoint, 'checkpoint')
        check_trained(cfg, content, f'checkpoint {args.checkpoint}')
    if args.tta:
        test_with_augmentation(cfg, model)
    del model
    from slab_det.deploy import place_twins

    with runner_of(cfg, args) as runner:
        if args.out is not None:
            from mmdet.evaluation import DumpDetResults

            runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
        place_twins(runner.model)
        runner.test()


if __name__ == '__main__':
    run(main, parse_args())
