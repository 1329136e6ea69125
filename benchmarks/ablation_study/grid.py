"""What is trained: the cells of the grid and of the further studies, and their configs."""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parent / 'configs'
NORMS = ('LN', 'BN', 'RepBN', 'PRepBN')
ATTENTIONS = ('softmax', 'SLA')
SEEDS = (0, 1, 2)

#: Windows by data set and attention. Linear attention has wide ones in the first two stages, where
#: softmax has small ones, as published (56, 28, 7, 7 and 7); they divide the maps, but for the last
#: ones.
WINDOWS = {
    'bccd': {'softmax': (4, 4, 4, 8), 'SLA': (16, 8, 4, 8)},
    'shapes': {'softmax': (5, 5, 5, 5), 'SLA': (40, 20, 5, 5)},
}
#: Width and height of the images of the padding study, mixed in every batch.
SHAPES = ((256, 160), (160, 256), (288, 128), (128, 288), (192, 192), (224, 160))
TYPES = {'softmax': 'SSSS', 'SLA': 'LLSS'}
BATCH = 4
#: Images that statistics are recomputed over.
CALIBRATION_IMAGES = 64


@dataclass(frozen=True)
class Budget:
    """What every run of a data set gets, in iterations of four images."""

    iterations: int
    warm_up: int
    lr: float
    evaluations: int = 4


BUDGETS = {
    'bccd': Budget(iterations=400, warm_up=50, lr=1e-3),
    'shapes': Budget(iterations=400, warm_up=50, lr=2.5e-3),
}


@dataclass(frozen=True)
class Cell:
    """One setting, trained once per seed.

    Args:
        data: 'bccd' (RetinaNet) or 'shapes' (Mask R-CNN).
        norm: the transformer's norm, one of :data:`NORMS`.
        attention: 'softmax' or 'SLA'.
        study: what it is trained for; the further settings belong to that study.
        batch: images per iteration; iterations and learning rate follow it.
        ratio_end: share of the training after which the ratio of PRepBN is 0.
        start: name of the cell whose checkpoint of the same seed this one starts from.
        norm_eval: whether BatchNorm keeps its statistics as they are.
        length: how many times the data set's iterations.
        valid_tokens: whether ValidTokensHook keeps padding out of the statistics.
        fit_layer_norm: whether the RepBN branch begins at the affine map closest to the LayerNorm.
    """

    data: str
    norm: str
    attention: str
    study: str = 'grid'
    batch: int = BATCH
    ratio_end: float = 0.8
    start: str | None = None
    norm_eval: bool = False
    length: int = 1
    valid_tokens: bool = False
    fit_layer_norm: bool = False

    @property
    def name(self) -> str:
        """Unique and usable as a folder."""
        words = [self.study, self.data, self.norm, self.attention]
        if self.study == 'batch':
            words.append(f'batch{self.batch}')
        if self.study == 'schedule':
            words.append(f'end{self.ratio_end:g}')
        if self.study == 'norm_eval':
            words.append('frozen' if self.norm_eval else 'moving')
        if self.study == 'length':
            words.append(f'x{self.length}')
        if self.study == 'padding':
            words.append('images' if self.valid_tokens else 'all')
        if self.study == 'from_ln':
            words.append('fit' if self.fit_layer_norm else 'frozen' if self.norm_eval else 'new')
        return '-'.join(words)


def grid() -> list[Cell]:
    """The cells of the paper's ablation: all norms on BCCD, the two that matter most on shapes."""
    cells = [
        Cell('bccd', norm, attention)
        for attention in reversed(ATTENTIONS)
        for norm in ('LN', 'PRepBN', 'BN', 'RepBN')
    ]
    return cells + [
        Cell('shapes', norm, attention)
        for attention in reversed(ATTENTIONS)
        for norm in ('LN', 'PRepBN')
    ]


def schedule_cells() -> list[Cell]:
    """PRepBN with shorter and longer decays of its ratio."""
    return [Cell('bccd', 'PRepBN', 'SLA', 'schedule', ratio_end=end) for end in (0.05, 0.4, 1.0)]


def batch_cells() -> list[Cell]:
    """One to eight images per iteration, the same number of images in all."""
    return [
        Cell('bccd', norm, 'SLA', 'batch', batch=batch)
        for batch in (1, 8, 2)
        for norm in ('PRepBN', 'LN', 'BN')
    ]


def norm_eval_cells() -> list[Cell]:
    """Fine-tuning of a finished detector with statistics that move on or stay."""
    return [
        Cell('bccd', norm, 'SLA', 'norm_eval', start=f'grid-bccd-{norm}-SLA', norm_eval=frozen)
        for norm in ('PRepBN', 'BN')
        for frozen in (True, False)
    ]


def length_cells() -> list[Cell]:
    """Mask R-CNN trained longer: whether a norm that is behind catches up."""
    return [Cell('shapes', norm, 'SLA', 'length', length=3) for norm in ('PRepBN', 'LN')]


def padding_cells() -> list[Cell]:
    """Images of six shapes in every batch, their padding counted by the statistics or not."""
    return [Cell('bccd', 'PRepBN', 'SLA', 'padding', valid_tokens=flag) for flag in (True, False)]


def from_ln_cells() -> list[Cell]:
    """From the LayerNorm detector to none: with a fitted branch, a new one, and one that stays as
    it is."""
    start = 'grid-bccd-LN-SLA'
    return [
        Cell('bccd', 'PRepBN', 'SLA', 'from_ln', start=start, fit_layer_norm=True),
        Cell('bccd', 'PRepBN', 'SLA', 'from_ln', start=start),
        Cell('bccd', 'PRepBN', 'SLA', 'from_ln', start=start, norm_eval=True),
    ]


def calibration_cells() -> list[Cell]:
    """The finished detectors with BatchNorm statistics recomputed; nothing is trained."""
    return [
        Cell('bccd', norm, attention, 'calibration', start=f'grid-bccd-{norm}-{attention}')
        for attention in reversed(ATTENTIONS)
        for norm in ('PRepBN', 'BN', 'RepBN')
    ]


STUDIES = {
    'grid': grid,
    'calibration': calibration_cells,
    'schedule': schedule_cells,
    'batch': batch_cells,
    'norm_eval': norm_eval_cells,
    'length': length_cells,
    'padding': padding_cells,
    'from_ln': from_ln_cells,
}


def iterations(cell: Cell) -> int:
    """Iterations of a run: the data set's budget in images over the batch, a quarter of it for
    fine-tuning, none for calibration."""
    if cell.study == 'calibration':
        return 0
    total = BUDGETS[cell.data].iterations * cell.length * BATCH // cell.batch
    return total // 4 if cell.start else total


def make_config(cell: Cell, seed: int, work_dir: Path, start: Path | None = None):
    """Return the config of one run.

    Args:
        work_dir: where its log and checkpoints go.
        start: the checkpoint that it starts from, where the cell has one.
    """
    from slab_det.cli import load_config

    cfg = load_config(str(CONFIGS / f'{cell.data}.py'))
    budget, total = BUDGETS[cell.data], iterations(cell)
    backbone: dict[str, Any] = dict(
        norm_cfg=dict(type=cell.norm),
        attn_types=TYPES[cell.attention],
        window_sizes=WINDOWS[cell.data][cell.attention],
        norm_eval=cell.norm_eval,
    )
    # The square root is what AdamW wants where the batch changes (Malladi et al., NeurIPS 2022).
    lr = budget.lr * (cell.batch / BATCH) ** 0.5 * (0.1 if cell.study == 'norm_eval' else 1.0)
    warm_up = budget.warm_up * BATCH // cell.batch
    cfg.merge_from_dict(
        {
            'model.backbone': backbone,
            'optim_wrapper.optimizer.lr': lr,
            'train_dataloader.batch_size': cell.batch,
            # Evaluations are logged by iteration too; an iteration-based loop stays in epoch 0.
            'default_hooks.logger': dict(interval=max(total // 40, 1), log_metric_by_epoch=False),
            # Two: mmengine removes the oldest before it writes the newest, and a kill may come
            # between.
            'default_hooks.checkpoint': dict(
                by_epoch=False, interval=max(total // 8, 1), max_keep_ckpts=2
            ),
            'randomness.seed': seed,
        }
    )
    cfg.train_cfg = dict(
        type='IterBasedTrainLoop',
        max_iters=total,
        val_interval=max(total // (1 if cell.start else budget.evaluations), 1),
    )
    cfg.param_scheduler = [
        dict(
            type='LinearLR',
            start_factor=0.01,
            begin=0,
            end=min(warm_up, total // 2),
            by_epoch=False,
        ),
        dict(
            type='CosineAnnealingLR', T_max=total, begin=0, end=total, eta_min=1e-5, by_epoch=False
        ),
    ]
    for hook in cfg.custom_hooks:
        if hook['type'] == 'PRepBNHook':
            hook.update(end=cell.ratio_end, allow_missing=cell.norm != 'PRepBN')
    if cell.fit_layer_norm:
        cfg.custom_hooks.append(
            dict(
                type='BNCalibrationHook',
                fit_layer_norm=True,
                at_val=False,
                at_end=False,
                num_images=CALIBRATION_IMAGES,
                num_workers=0,
            )
        )
    if cell.study == 'padding':
        _mix_shapes(cfg)
    if cell.valid_tokens:
        cfg.custom_hooks.append(dict(type='ValidTokensHook'))
    cfg.log_processor = dict(type='LogProcessor', window_size=10, by_epoch=False)
    cfg.work_dir = str(work_dir)
    # mmengine would resume from load_from instead of from the run's own last checkpoint.
    begun = (work_dir / 'last_checkpoint').exists()
    cfg.load_from = str(start) if start and not begun else None
    cfg.resume = cfg.load_from is None
    return cfg


def _mix_shapes(cfg) -> None:
    """Give training images one of the shapes by chance, and those of the validation set all of them
    in turn, one image at a time."""
    cfg.model.data_preprocessor.pad_size_divisor = 32
    pipeline = cfg.train_dataloader.dataset.pipeline
    resize = next(step for step in pipeline if step.type == 'Resize')
    pipeline[pipeline.index(resize)] = dict(
        type='RandomChoiceResize', scales=list(SHAPES), keep_ratio=False
    )
    data = cfg.val_dataloader.dataset
    images = len(json.loads((Path(data.data_root) / data.ann_file).read_text())['images'])
    parts = []
    for number, shape in enumerate(SHAPES):
        part = copy.deepcopy(data)
        part.indices = list(range(number, images, len(SHAPES)))
        resize = next(step for step in part.pipeline if step.type == 'Resize')
        resize.update(scale=shape, keep_ratio=False)
        parts.append(part)
    cfg.val_dataloader.batch_size = 1
    cfg.val_dataloader.pop('dataset')  # or the new one is merged into it
    cfg.val_dataloader.dataset = dict(type='ConcatDataset', datasets=parts)
    cfg.test_dataloader = cfg.val_dataloader


def select(
    cells: Sequence[Cell], only: Sequence[str], seeds: Sequence[int]
) -> list[tuple[Cell, int]]:
    """The runs of the cells whose name holds one of the words ``only`` (all without one), every
    cell once before any cell's next seed."""
    chosen = [cell for cell in cells if not only or any(word in cell.name for word in only)]
    return [(cell, seed) for seed in seeds for cell in chosen]
