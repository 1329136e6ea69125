"""Plug a backbone into every kind of detector of mmdet, and see that it trains and evaluates.

    python benchmarks/detectors.py --out docs/detectors.md

For each detector, in a process of its own: a config is written as tools/plug_backbone.py does; the
detector trains two steps and is evaluated on the built-in data with its own optimizer, hooks and
metrics; it is re-parameterized, and the maps of its neck are compared. Results are kept in the work
dir as one file per detector: what is there is not run again.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from slab_det.cli import write_text  # noqa: E402

#: Name -> config below mmdet's configs. The first lines are those that the backbones must fit.
DETECTORS = {
    'Faster R-CNN': 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'Mask R-CNN': 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'Cascade R-CNN': 'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
    'Cascade Mask R-CNN': 'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
    'Libra R-CNN': 'libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py',
    'RetinaNet': 'retinanet/retinanet_r50_fpn_1x_coco.py',
    'FCOS': 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'ATSS': 'atss/atss_r50_fpn_1x_coco.py',
    'GFL': 'gfl/gfl_r50_fpn_1x_coco.py',
    'PAA': 'paa/paa_r50_fpn_1x_coco.py',
    'VarifocalNet': 'vfnet/vfnet_r50_fpn_1x_coco.py',
    'TOOD': 'tood/tood_r50_fpn_1x_coco.py',
    'RepPoints': 'reppoints/reppoints-moment_r50_fpn_1x_coco.py',
    'CenterNet (update)': 'centernet/centernet-update_r50-caffe_fpn_ms-1x_coco.py',
    'Sparse R-CNN': 'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py',
    'QueryInst': 'queryinst/queryinst_r50_fpn_1x_coco.py',
    'DETR': 'detr/detr_r50_8xb2-150e_coco.py',
    'Conditional DETR': 'conditional_detr/conditional-detr_r50_8xb2-50e_coco.py',
    'DAB-DETR': 'dab_detr/dab-detr_r50_8xb2-50e_coco.py',
    'Deformable DETR': 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    'DINO': 'dino/dino-4scale_r50_8xb2-12e_coco.py',
    'DDQ': 'ddq/ddq-detr-4scale_r50_8xb2-12e_coco.py',
    'SOLOv2': 'solov2/solov2_r50_fpn_1x_coco.py',
    'CondInst': 'condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py',
    'BoxInst': 'boxinst/boxinst_r50_fpn_ms-90k_coco.py',
    'YOLACT': 'yolact/yolact_r50_1xb8-55e_coco.py',
    'Mask2Former': 'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
    'Mask2Former, panoptic': 'mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py',
    'MaskFormer': 'maskformer/maskformer_r50_ms-16xb1-75e_coco.py',
    'Panoptic FPN': 'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py',
    'RTMDet': 'rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    'YOLOX': 'yolox/yolox_tiny_8xb8-300e_coco.py',
    'DyHead': 'dyhead/atss_r50_fpn_dyhead_1x_coco.py',
    'HTC': 'htc/htc_r50_fpn_1x_coco.py',
    'PointRend': 'point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py',
    'Mask Scoring R-CNN': 'ms_rcnn/ms-rcnn_r50_fpn_1x_coco.py',
    'Grid R-CNN': 'grid_rcnn/grid-rcnn_r50_fpn_gn-head_1x_coco.py',
    'Double Head R-CNN': 'double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py',
    'SABL': 'sabl/sabl-faster-rcnn_r50_fpn_1x_coco.py',
    'SABL RetinaNet': 'sabl/sabl-retinanet_r50_fpn_1x_coco.py',
    'Dynamic R-CNN': 'dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco.py',
    'PAFPN': 'pafpn/faster-rcnn_r50_pafpn_1x_coco.py',
    'NAS-FPN': 'nas_fpn/retinanet_r50_nasfpn_crop640-50e_coco.py',
    'SSD': 'ssd/ssd300_coco.py',
    'SSDLite': 'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py',
    'RTMDet-Ins': 'rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py',
    'YOLOv3': 'yolo/yolov3_d53_8xb8-320-273e_coco.py',
    'YOLOF': 'yolof/yolof_r50-c5_8xb8-1x_coco.py',
    'HRNet neck': 'hrnet/faster-rcnn_hrnetv2p-w18-1x_coco.py',
}
#: What is known about a failure.
_SSD = 'in mmdet 3.3 no SSD can predict: SSDHead lacks what its base class asks for'
NOTES = {'SSD': _SSD, 'SSDLite': _SSD}
#: Largest difference of a map after re-parameterization, over its largest value: float32 rounding.
TOLERANCE = 1e-3
HEADER = (
    'detector',
    'config of mmdet',
    'trained a step',
    'evaluated',
    're-parameterized',
    'CPU seconds',
    'remark',
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--backbone', default='slab-swin-t', help='name of the backbone (default: slab-swin-t)'
    )
    parser.add_argument(
        '--only', nargs='+', choices=DETECTORS, metavar='NAME', help='these detectors alone'
    )
    parser.add_argument('--again', action='store_true', help='run also what has a result')
    parser.add_argument(
        '--work-dir', default='work_dirs/detectors', help='data, configs and results'
    )
    parser.add_argument('--out', help='write the table here, as Markdown')
    parser.add_argument('--one', choices=DETECTORS, help=argparse.SUPPRESS)
    return parser.parse_args()


def make_data(work_dir: Path) -> Path:
    from slab_det.mm.datasets import make_shapes_dataset

    folder = work_dir / 'coco'
    make_shapes_dataset(str(folder), 4, 4, (96, 160), panoptic=True, semantic=True, layout='coco')
    return folder


def result_file(args: argparse.Namespace, name: str) -> Path:
    return Path(args.work_dir) / args.backbone / f'{Path(DETECTORS[name]).stem}.json'


def run_one(args: argparse.Namespace) -> None:
    """Plug, train, evaluate and re-parameterize one detector; write the result as JSON."""
    import warnings

    warnings.simplefilter('ignore')
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    file = result_file(args, args.one)
    file.parent.mkdir(parents=True, exist_ok=True)
    start, result = time.process_time(), {}
    stages = dict(plugged=plug, trained=train, evaluated=evaluate, reparameterized=reparameterize)
    state = dict(args=args, config=file.with_suffix('.py'))
    for stage, function in stages.items():
        try:
            result[stage] = function(state)
        except Exception as error:  # whatever a detector raises is its result
            reason = f'{stage}: {type(error).__name__}: {" ".join(str(error).split())[:300]}'
            result['failed'] = '; '.join([*filter(None, [result.get('failed')]), reason])
            if os.environ.get('SLAB_DET_TRACEBACK'):
                raise
            if stage != 'evaluated':  # nothing else is possible
                break
    result['seconds'] = time.process_time() - start
    write_text(file, json.dumps(result, indent=1), '--work-dir')


def plug(state: dict) -> bool:
    from slab_det.mm.plug import backbone_config, config_text, load_detector, make_plan

    config = f'mmdet::{DETECTORS[state["args"].one]}'
    plan = make_plan(load_detector(config), backbone_config(state['args'].backbone), config)
    state['config'].write_text(config_text(config, plan.before, plan.after, config))
    state['left'] = [f'{note.path} {note.text}' for note in plan.notes if note.left]
    return True


def train(state: dict) -> str:
    from mmengine.config import Config
    from mmengine.runner import Runner

    from slab_det.mm.plug.builtin import on_builtin_data

    cfg = on_builtin_data(
        Config.fromfile(state['config']), str(Path(state['args'].work_dir) / 'coco')
    )
    cfg.work_dir = str(state['config'].with_suffix(''))
    cfg.log_level = 'ERROR'
    runner = state['runner'] = Runner.from_cfg(cfg)
    runner.train()
    losses = {
        name: buffer.current()
        for name, buffer in runner.message_hub.log_scalars.items()
        if name.startswith('train/') and 'loss' in name
    }
    wrong = [f'{name} is {value}' for name, value in losses.items() if not math.isfinite(value)]
    if wrong or not losses:
        raise ValueError(wrong[0] if wrong else 'no losses')
    return f'loss {losses["train/loss"]:.2f}'


def evaluate(state: dict) -> dict:
    metrics = state['runner'].val_loop.run()
    return {name: float(value) for name, value in (metrics or {}).items()}


def reparameterize(state: dict) -> float:
    import torch

    from slab_det.deploy import reparameterize as fold
    from slab_det.layers import set_ratio
    from slab_det.mm.plug.trial import fixed_size

    model = state['runner'].model.eval()
    set_ratio(model, 0.0)
    torch.manual_seed(0)
    # Whole cells at stride 64, no whole windows.
    image = torch.randn(1, 3, *(fixed_size(state['runner'].cfg.model) or (192, 256)))
    with torch.no_grad():
        before = model.extract_feat(image)
        after = fold(model, inplace=True).extract_feat(image)
    error = max(
        float((a - b).abs().max() / b.abs().max()) for a, b in zip(tensors(after), tensors(before))
    )
    if not error < TOLERANCE:
        raise ValueError(f'maps differ by {error:.2g} of their largest value')
    return error


def tensors(node) -> list:
    import torch

    if torch.is_tensor(node):
        return [node]
    return (
        [one for part in node for one in tensors(part)] if isinstance(node, (list, tuple)) else []
    )


def row(name: str, result: dict) -> tuple:
    metrics, error = result.get('evaluated'), result.get('reparameterized')
    metric = 'no'
    if metrics is not None:
        metric = next(
            (f'{value:.3f} {key.split("/")[-1]}' for key, value in metrics.items()), 'no detections'
        )
    remark = result.get('failed', '')
    if remark and name in NOTES:
        remark += f' ({NOTES[name]})'
    return (
        name,
        f'`{DETECTORS[name]}`',
        result.get('trained', 'no'),
        metric,
        'no' if error is None else f'{error:.0e}',
        f'{result["seconds"]:.0f}',
        remark,
    )


def table(args: argparse.Namespace) -> str:
    from slab_det.cli.tables import markdown_table

    results = {
        name: json.loads(result_file(args, name).read_text())
        for name in DETECTORS
        if result_file(args, name).exists()
    }
    done = sum('failed' not in result for result in results.values())
    return f"""# Detectors

<!-- Written by benchmarks/detectors.py. -->

Every config below was converted as by `tools/plug_backbone.py --backbone {args.backbone}`, trained
for two steps from random weights, and evaluated on the built-in data in COCO's layout, with the
optimizer, hooks, and metrics of the new config: four images for training and four for evaluation,
at least 160x192 pixels, batches of 2, on a CPU. The loss is that of the second step. After two
steps the metric shows only that it can be computed. *Re-parameterized* is the largest difference
that folding the norms makes in the maps of the neck (or of the backbone, without a neck), relative
to the largest value of the map. {done} of {len(results)} detectors pass everything.

{markdown_table(HEADER, [row(name, result) for name, result in results.items()], 'llllrrl')}
"""


def main(args: argparse.Namespace) -> None:
    if args.one:
        run_one(args)
        return
    make_data(Path(args.work_dir))
    for name in args.only or DETECTORS:
        if args.again or not result_file(args, name).exists():
            command = [
                sys.executable,
                __file__,
                '--one',
                name,
                '--backbone',
                args.backbone,
                '--work-dir',
                args.work_dir,
            ]
            process = subprocess.run(command, capture_output=True, text=True)
            if not result_file(args, name).exists():
                sys.exit(
                    f'{name}: the process ended with {process.returncode}\n{process.stderr[-2000:]}'
                )
        print('  '.join(row(name, json.loads(result_file(args, name).read_text()))), flush=True)
    if args.out:
        write_text(args.out, table(args), '--out')
        print(f'wrote {args.out}')


if __name__ == '__main__':
    main(parse_args())
