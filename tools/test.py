"""Evaluates a detector: python tools/test.py CONFIG CHECKPOINT [--out FILE.pkl] [--show-dir DIR] ..."""

import argparse
from copy import deepcopy

from slab_det.cli import (
    InputError,
    add_runner_arguments,
    check_checkpoint,
    check_data,
    check_fit,
    check_model,
    choose_work_dir,
    load_config,
    prepare_launcher,
    run,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Evaluate a detector')
    add_runner_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out', metavar='FILE.pkl', help='write the predictions to this pickle file'
    )
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument(
        '--show-dir',
        help='draw the predictions into this folder, inside the time-stamped one of the work dir',
    )
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds each shown picture stays'
    )
    parser.add_argument(
        '--tta', action='store_true', help='average over flipped (or tta_pipeline) inputs'
    )
    args = parser.parse_args()
    if args.out is not None and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out takes a name that ends in .pkl or .pickle, got {args.out!r}')
    return args


def draw_predictions(cfg, args: argparse.Namespace) -> None:
    """Turns on mmdet's DetVisualizationHook."""
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise InputError(
            '--show and --show-dir need default_hooks.visualization='
            f"dict(type='DetVisualizationHook') in {args.config}"
        )
    hook.draw = True
    hook.show = args.show
    hook.wait_time = args.wait_time
    if args.show_dir:
        hook.test_out_dir = args.show_dir


def test_with_augmentation(cfg, model) -> None:
    """Wraps model and pipeline for test-time augmentation; horizontal flips unless the config says else."""
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
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if cfg.get('tta_pipeline') is None:
        pack = deepcopy(dataset.pipeline[-1])
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
            *dataset.pipeline[:-1],
            dict(type='TestTimeAug', transforms=[flips, [pack]]),
        ]
    cfg.model = dict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


def main(args: argparse.Namespace) -> None:
    cfg = load_config(args.config, args.cfg_options)
    cfg.load_from, cfg.resume = args.checkpoint, False
    check_checkpoint(args.checkpoint, 'checkpoint')
    if args.show or args.show_dir:
        draw_predictions(cfg, args)
    choose_work_dir(cfg, args.config, args.work_dir)
    check_data(cfg, ('test',))
    model = check_model(cfg, args.config)
    check_fit(args.checkpoint, model, 'checkpoint')
    if args.tta:
        test_with_augmentation(cfg, model)
    del model
    prepare_launcher(cfg, args.launcher, args.local_rank)

    from mmdet.evaluation import DumpDetResults
    from mmdet.registry import RUNNERS
    from mmdet.utils import setup_cache_size_limit_of_dynamo
    from mmengine.runner import Runner

    from slab_det.deploy import place_twins

    setup_cache_size_limit_of_dynamo()
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    place_twins(runner.model)
    if args.out is not None:
        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
    runner.test()


if __name__ == '__main__':
    run(main, parse_args())
