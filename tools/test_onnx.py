"""Evaluate an ONNX detector on a config's test set: python tools/test_onnx.py CONFIG FILE.onnx"""

import argparse
import time

from slab_det.cli import (
    InputError,
    add_config_arguments,
    check_data,
    load_config,
    number,
    progress,
    require_onnx,
    run,
    user_input,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Evaluate an ONNX detector with the metrics of a config'
    )
    add_config_arguments(parser)
    parser.add_argument('file', help='ONNX file of tools/export_onnx.py or tools/quantize_onnx.py')
    parser.add_argument(
        '--threads',
        type=number(int, 1),
        help='number of threads of onnxruntime (default: one per core)',
    )
    return parser.parse_args()


def check_classes(detector, dataset, config: str) -> None:
    """Raise InputError if the file's classes are not those of the data set."""
    classes = list(dataset.metainfo['classes'])
    if classes != detector.classes:
        raise InputError(
            f'the file detects {", ".join(detector.classes)}, but the test set of {config} has '
            f'{", ".join(classes)}: give the config that it was exported with'
        )


def check_single(cfg, config: str) -> None:
    """Raise InputError if the test set is not a single one with its own evaluation."""
    from slab_det.cli.data_checks import datasets_of

    for name in ('test_dataloader', 'test_evaluator'):
        if not cfg.get(name):
            raise InputError(f'config {config} has no {name}: give a whole config')
    sets = list(datasets_of(cfg.test_dataloader.dataset, 'test_dataloader.dataset'))
    if len(sets) > 1:
        raise InputError(
            f'config {config} has a test set of {len(sets)} files, which this tool evaluates one '
            f'at a time: give a config whose test_dataloader.dataset and test_evaluator are of one'
        )


def predictions(detector, dataset, index: int) -> dict:
    """Return what mmdet's metrics take as the result of an image."""
    import torch

    info = dataset.get_data_info(index)
    found = detector.predict(info['img_path'])
    instances = dict(
        bboxes=torch.from_numpy(found.boxes),
        scores=torch.from_numpy(found.scores),
        labels=torch.from_numpy(found.labels),
    )
    if found.masks is not None:
        instances['masks'] = torch.from_numpy(found.masks)
    return dict(
        img_id=info['img_id'],
        img_path=info['img_path'],
        ori_shape=(info['height'], info['width']),
        instances=info.get('instances', []),
        pred_instances=instances,
    )


def main(args: argparse.Namespace) -> None:
    require_onnx()
    cfg = load_config(args.config, args.cfg_options)
    check_single(cfg, args.config)
    check_data(cfg, ('test',))

    from mmdet.registry import DATASETS
    from mmdet.utils import register_all_modules
    from mmengine.evaluator import Evaluator

    from slab_det.deploy.onnx_detector import OnnxDetector

    with user_input('FILE.onnx', ValueError):
        detector = OnnxDetector(args.file, args.threads)
    register_all_modules(init_default_scope=True)
    with user_input(f'the data set or the metrics of {args.config} cannot be built'):
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
        evaluator = Evaluator(cfg.test_evaluator)
    check_classes(detector, dataset, args.config)
    evaluator.dataset_meta = dataset.metainfo
    seconds = 0.0
    for index in progress(range(len(dataset)), 'images'):
        start = time.perf_counter()
        with user_input('the test set', ValueError):
            result = predictions(detector, dataset, index)
        seconds += time.perf_counter() - start
        evaluator.process(data_samples=[result])
    print(
        f'{len(dataset)} images, {1000 * seconds / max(len(dataset), 1):.1f} ms each with reading '
        'and resizing'
    )
    for name, value in evaluator.evaluate(len(dataset)).items():
        print(f'{name}: {value:.4f}')


if __name__ == '__main__':
    run(main, parse_args())
