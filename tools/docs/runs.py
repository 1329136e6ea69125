"""Running commands of the documentation in a folder of their own, on generated data."""

import contextlib
import inspect
import io
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from .commands import CLUSTER, Command, DocError, parse

#: What is added to commands so that they end soon: fewer and smaller images, one run.
SHORTER = {
    'tools/make_dataset.py': ['--train', '8', '--val', '4', '--size', '64', '96'],
    'tools/reparameterize.py': ['--shape', '64', '96'],
    'tools/calibrate_bn.py': ['--num-images', '4', '--num-workers', '0'],
    'tools/quantize_onnx.py': ['--num', '4'],
    'benchmarks/profile_network.py': ['--size', '64x96', '--runs', '1'],
}
#: Settings added to training and tests: no processes that load data.
SHORTER_RUNS = [
    f'{phase}_dataloader.{setting}'
    for phase in ('train', 'val', 'test')
    for setting in ('num_workers=0', 'persistent_workers=False')
]
#: One epoch, with so many iterations that PRepBN's schedule arrives at 0 before the last one.
ONE_EPOCH = ['train_cfg.max_epochs=1', 'train_dataloader.batch_size=1']
#: And to those with configs for COCO: a few small images.
SHORTER_COCO = [
    *ONE_EPOCH,
    'train_cfg.val_interval=9',
    'train_dataloader.dataset.indices=6',
    'train_dataloader.dataset.pipeline.2.scale=(96,64)',
    *(
        f'{phase}_dataloader.dataset.{setting}'
        for phase in ('val', 'test')
        for setting in ('indices=1', 'pipeline.1.scale=(96,64)')
    ),
]


def run_page(commands: Iterable[Command], root: Path) -> int:
    """Run those commands of a page that are marked so, in a folder with the project's configs and
    tools, built-in data in data/shapes and in COCO's layout in data/coco; return their number.

    Raises:
        DocError: one fails; what it printed went to the standard error.
    """
    from slab_det.mm.datasets import make_shapes_dataset

    number, start = 0, os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        for name in ('configs', 'tools', 'benchmarks', 'docs'):
            os.symlink(root / name, os.path.join(folder, name))
        os.chdir(folder)
        try:
            make_shapes_dataset(
                'data/coco', 6, 2, (64, 96), panoptic=True, semantic=True, layout='coco'
            )
            for command in commands:
                if command.mark != 'run' or not command.needs_proof:
                    continue
                begun = time.perf_counter()
                run_command(command, root)
                print(f'{time.perf_counter() - begun:5.1f} s  {command}', flush=True)
                number += 1
        finally:
            os.chdir(start)
    return number


def run_command(command: Command, root: Path) -> None:
    """Run a script in this process, in the current folder; its output is shown if it fails.

    Raises:
        DocError: it fails, or it is not a ``python`` script of the project.
    """
    if command.words[0] != 'python' or command.words[1] in CLUSTER:
        raise DocError(f'{command}: only python tools/... and benchmarks/... can be run')
    command = command.stand_ins()
    output = io.StringIO()
    _forget_visualizers()
    before = dict(os.environ)
    os.environ.update(command.environment)
    try:
        for word in [*command.words, *command.environment.values()]:
            _provide(word)
        words = _shortened(command.words)
        module, args = parse(command, root / command.words[1], words)
        with contextlib.redirect_stdout(output), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            takes_words = 'arguments' in inspect.signature(module.main).parameters
            failed = module.main(words if takes_words else args)
        if failed:
            raise DocError(f'{command}: ended with {failed}')
    except DocError:
        raise
    except (Exception, SystemExit) as error:
        print(output.getvalue(), traceback.format_exc(), file=sys.stderr)
        raise DocError(f'{command}: {type(error).__name__}: {error}') from error
    finally:
        os.environ.clear()
        os.environ.update(before)


def _forget_visualizers() -> None:
    """Drop mmengine's visualizers, one per name and process: the next command writes elsewhere."""
    from mmdet.visualization import DetLocalVisualizer

    for kind in DetLocalVisualizer.__mro__:
        getattr(kind, '_instance_dict', {}).clear()


def _shortened(words: list[str]) -> list[str]:
    """Return the arguments of a command such that it ends soon."""
    script, arguments = words[1], list(words[2:])
    arguments += SHORTER.get(script, [])
    if script in ('tools/train.py', 'tools/test.py'):
        if '--cfg-options' not in arguments:
            arguments.append('--cfg-options')
        place = arguments.index('--cfg-options') + 1
        config = arguments[0]
        options = [*SHORTER_RUNS]
        if config.endswith('_coco.py'):
            options += SHORTER_COCO
        elif config.startswith('configs/examples/'):
            options += ONE_EPOCH
        arguments[place:place] = options
    return arguments


def _provide(word: str) -> None:
    """Make what stands in for a user's file, where ``word`` is the name of such a stand-in."""
    if 'mini' in word:  # the mini configs' data
        word = f'{word}=data/shapes'
    for part in word.split('='):
        if part in STAND_INS and not os.path.exists(part):
            STAND_INS[part](Path(part))


def _shapes(folder: Path) -> None:
    from slab_det.mm.datasets import make_shapes_dataset

    make_shapes_dataset(str(folder), 8, 4, (64, 96))


def _cells(folder: Path) -> None:
    """Built-in data as BCCD has them: its files and the names of its classes."""
    _shapes(Path('data/shapes'))
    (folder / 'images').mkdir(parents=True)
    for split in ('train', 'val'):
        content = json.loads(Path(f'data/shapes/annotations/instances_{split}.json').read_text())
        content['categories'] = [
            dict(id=i + 1, name=name) for i, name in enumerate(('RBC', 'WBC', 'Platelets'))
        ]
        for image in content['images']:
            name = f'{split}_{image["file_name"]}'
            shutil.copy(f'data/shapes/{split}/{image["file_name"]}', folder / 'images' / name)
            image['file_name'] = name
        for annotation in content['annotations']:
            annotation['category_id'] = annotation['category_id'] % 3 + 1
        (folder / f'{split}.json').write_text(json.dumps(content))


def _mini_checkpoint(file: Path) -> None:
    _random_checkpoint(file, 'configs/mini/retinanet_slab-swin_mini_shapes.py', 'PRepBN')


def _swin_t_checkpoint(file: Path) -> None:
    _random_checkpoint(file, 'configs/slab_swin/mask-rcnn_slab-swin-t_fpn_1x_coco.py', 'PRepBN')


def _layer_norm_checkpoint(file: Path) -> None:
    _random_checkpoint(file, 'configs/recipes/mask-rcnn_swin-t-prepbn-from-ln_fpn_1x_coco.py', 'LN')


def _random_checkpoint(file: Path, config: str, norm: str) -> None:
    """Write a detector with this norm and random weights; a PRepBN's schedule is finished."""
    import torch
    from mmdet.registry import MODELS

    from slab_det.cli.checks import load_config
    from slab_det.layers import prepbn_modules

    cfg = load_config(config)
    cfg.model.backbone.update(init_cfg=None, norm_cfg=dict(type=norm))
    model = MODELS.build(cfg.model)
    for module in prepbn_modules(model):
        module.set_ratio(0.0)
    file.parent.mkdir(exist_ok=True)
    torch.save(dict(state_dict=model.state_dict(), meta={}), file)


#: What pages may name instead of a user's files, and what makes it.
STAND_INS: dict[str, Callable[[Path], None]] = {
    'data/shapes': _shapes,
    'data/shapes/train': lambda folder: _shapes(folder.parent),
    'data/shapes/val': lambda folder: _shapes(folder.parent),
    'data/cells': _cells,
    'stand_ins/mini.pth': _mini_checkpoint,
    'stand_ins/swin_t.pth': _swin_t_checkpoint,
    'stand_ins/layer_norm.pth': _layer_norm_checkpoint,
}
