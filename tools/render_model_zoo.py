"""Renders the metafiles to docs/model_zoo.md.

python tools/render_model_zoo.py [--out FILE] [--check]
"""

import argparse
import os
import warnings
from pathlib import Path

from slab_det.cli import InputError, run, write_text
from slab_det.cli.tables import markdown_table

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (800, 1216)
NONE = '–'
BACKBONE_COLUMNS = (
    'family',
    'backbone',
    'parameters',
    f'multiply-adds at {SHAPE[0]}x{SHAPE[1]}',
    'ImageNet top-1',
    'checkpoint',
    'configs',
)
METRICS = ('box AP', 'mask AP')
HEAD = f"""# Model zoo

<!-- Written by tools/render_model_zoo.py from the metafiles in configs/; change those. -->

Parameters and multiply-adds are those of the backbone with its output norms, for one image of
{SHAPE[0]}x{SHAPE[1]} pixels (height x width), counted by `tools/get_flops.py`. A multiplication
with its addition counts as 1; norms, activations, and softmax do not count. ImageNet-1k accuracies,
in percent at 224x224, and checkpoints are the authors', from
[their repository](https://github.com/xinghaochen/SLAB); {NONE} means that none was published.

## Backbones

"""
USE = """
## How to use them

Configs start from random weights. The ratio `g`, the share of the LayerNorm branch in every norm,
starts at 1 and falls to 0 over the first four fifths of training. To start from a published
checkpoint, download it and run

```shell
python tools/train.py configs/slab_swin/mask-rcnn_slab-swin-t_fpn_1x_coco.py --cfg-options \\
    model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=slab_swin_tiny.pth \\
    model.backbone.norm_eval=True
```

A published checkpoint sets `g = 0`, and `norm_eval=True` keeps its BatchNorm statistics fixed, as
the authors do. A LayerNorm checkpoint is passed the same way, but without `norm_eval`: its
statistics have yet to be learned.

Config names follow mmdet:

- `1x` and `3x` are 12 and 36 epochs.
- `ms-crop` is the authors' resizing to 480 to 800 by 1333 pixels with random crops (they call it
  `mstrain_480-800`, also in their 1x configs). Without it, images are resized to 800 by 1333.
- `amp` is mixed precision, which needs a GPU. `--amp` turns it on for any config.

## COCO

"""
NO_RESULTS = 'No COCO results have been measured with this package yet.\n'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Render the metafiles of model-index.yml to a page'
    )
    parser.add_argument(
        '--index',
        default=str(ROOT / 'model-index.yml'),
        metavar='FILE',
        help='index of the metafiles (default: that of the project)',
    )
    parser.add_argument(
        '--out',
        default=str(ROOT / 'docs/model_zoo.md'),
        metavar='FILE',
        help='page to write (default: docs/model_zoo.md)',
    )
    parser.add_argument(
        '--check', action='store_true', help='write nothing; fail if the page is out of date'
    )
    parser.add_argument('--traceback', action='store_true', help='show the whole trace of an error')
    return parser.parse_args()


def read_metafiles(index: Path) -> tuple:
    """Return (collections, models) of every metafile that ``index`` imports."""
    import yaml

    collections, models = [], []
    files = [index]
    try:
        files += [
            index.parent / name
            for name in yaml.safe_load(index.read_text(encoding='utf-8'))['Import']
        ]
        for file in files[1:]:
            content = yaml.safe_load(file.read_text(encoding='utf-8'))
            collections += content['Collections']
            models += content['Models']
    except OSError as error:
        raise InputError(
            f'--index {index}: {error.filename} cannot be read: {error.strerror}'
        ) from error
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise InputError(
            f'--index {index}: {files[-1]} is not an index or metafile: '
            f'{" ".join(str(error).split())}'
        ) from error
    return collections, models


def link(path: str, page: Path, index: Path) -> str:
    target = os.path.relpath(index.parent / path, page.parent)
    return f'[{Path(path).stem}]({Path(target).as_posix()})'


def backbone_rows(collections: list, models: list, page: Path, index: Path) -> list:
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules

    from slab_det.mm.analysis import backbone_cost

    register_all_modules(init_default_scope=True)
    rows = []
    for collection in collections:
        for entry in collection['Backbones']:
            cost = backbone_cost(MODELS.build(dict(entry['Config'])), SHAPE)
            configs = [
                link(model['Config'], page, index)
                for model in models
                if model['Metadata']['Backbone'] == entry['Name']
            ]
            weights = entry.get('Weights')
            accuracy = entry.get('Top 1 Accuracy')
            rows.append(
                (
                    collection['Name'],
                    f'`{entry["Name"]}`',
                    f'{cost.parameters / 1e6:.1f} M',
                    f'{cost.multiply_adds / 1e9:.1f} G',
                    NONE if accuracy is None else f'{accuracy:.1f}',
                    f'[{weights.rsplit("/", 1)[-1]}]({weights})' if weights else NONE,
                    '<br>'.join(configs) or NONE,
                )
            )
    return rows


def result_rows(models: list, page: Path, index: Path) -> list:
    rows = []
    for model in models:
        metrics = {}
        for result in model.get('Results') or ():
            metrics.update(result['Metrics'])
        if metrics:
            rows.append(
                (
                    link(model['Config'], page, index),
                    str(model['Metadata']['Epochs']),
                    *(f'{metrics[name]:.1f}' if name in metrics else NONE for name in METRICS),
                )
            )
    return rows


def render(index: Path, page: Path) -> str:
    """Return the page, with links from where it lies."""
    collections, models = read_metafiles(index)
    backbones = backbone_rows(collections, models, page, index)
    text = HEAD + markdown_table(BACKBONE_COLUMNS, backbones, 'llrrrll') + '\n' + USE
    results = result_rows(models, page, index)
    return text + (
        markdown_table(('config', 'epochs', *METRICS), results) + '\n' if results else NO_RESULTS
    )


def main(args: argparse.Namespace) -> None:
    index, page = Path(args.index).absolute(), Path(args.out).absolute()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        text = render(index, page)
    if not args.check:
        write_text(args.out, text, '--out')
        print(f'{args.out} written')
    elif not page.is_file() or page.read_text(encoding='utf-8') != text:
        raise InputError(f'{args.out} is out of date: run python tools/render_model_zoo.py')


if __name__ == '__main__':
    run(main, parse_args())
