"""One training step of a detector on made-up images."""

import math
import time
import warnings
from typing import Any, NamedTuple

import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS as BASE_MODELS
from torch import nn

from slab_det.errors import InputError
from slab_det.layers import PRepBN
from slab_det.mm.config_walk import kind_of, walk, walk_dicts
from slab_det.mm.optim import build_plain, quiet

from .detector import reason

#: Height and width of the images in pixels, unless the detector is built for one size.
SIZE = (256, 320)
BATCH = 2
#: For a config without one.
_OPTIMIZER = dict(type='AdamW', lr=1e-4)


class Trial(NamedTuple):
    """What a training step showed.

    Attributes:
        losses: name -> value.
        seconds: for building the model and the step.
        millions: parameters of the detector, in millions.
        size: height and width of the images.
        idle: trainable parameters of the backbone that got no gradient, the branches of PRepBN
            aside.
    """

    losses: dict[str, float]
    seconds: float
    millions: float
    size: tuple[int, int]
    idle: list[str]


def train_one_step(cfg: Config, config: str, size: tuple[int, int] = SIZE) -> Trial:
    """Build the model of ``cfg`` with its initial weights and train it for one step on the CPU.

    The step is what mmengine's runner does: data preprocessor, losses, gradients, the optimizer of
    the config with its groups of parameters and clipping. Mixed precision is left out, and so are
    augmentations of a batch, which resize it.

    Raises:
        InputError: anything that fails, a loss that is not finite, weights that do not move.
    """
    start = time.perf_counter()
    model_cfg = ConfigDict(cfg.model.to_dict())
    if isinstance(model_cfg.get('data_preprocessor'), dict):
        model_cfg['data_preprocessor'].pop('batch_augments', None)
    size = fixed_size(model_cfg) or size
    with (
        warnings.catch_warnings(),
        quiet(),
        torch.random.fork_rng(devices=[]),
        BASE_MODELS.switch_scope_and_registry('mmdet'),
    ):
        warnings.simplefilter('ignore')
        torch.manual_seed(0)
        model = _attempt(f'the model of {config} cannot be built', _build, model_cfg)
        before = {name: value.detach().clone() for name, value in model.backbone.named_parameters()}
        losses, idle = _attempt(
            f'the {cfg.model.type} of {config} cannot be trained with this backbone',
            _step,
            model,
            cfg,
            size,
        )
    wrong = [f'{name} is {value}' for name, value in losses.items() if not math.isfinite(value)]
    wrong = wrong or [
        f'{name} holds infinite numbers after the step'
        for name, value in model.named_parameters()
        if not torch.isfinite(value).all()
    ]
    if wrong:
        raise InputError(
            f'the training step of the {cfg.model.type} of {config} failed: {wrong[0]}'
        )
    if all(torch.equal(value, before[name]) for name, value in model.backbone.named_parameters()):
        raise InputError(
            f'the {cfg.model.type} of {config} does not train its backbone: no weight of it moved'
        )
    millions = sum(value.numel() for value in model.parameters()) / 1e6
    return Trial(losses, time.perf_counter() - start, millions, size, idle)


def idle_parameters(backbone: nn.Module) -> list[str]:
    """Return names of trainable parameters without a gradient, outside the branches of PRepBN."""
    branches = tuple(
        f'{name}.' for name, module in backbone.named_modules() if isinstance(module, PRepBN)
    )
    return [
        name
        for name, value in backbone.named_parameters()
        if value.requires_grad
        and value.grad is None
        and not (branches and name.startswith(branches))
    ]


def fixed_size(model: dict[str, Any]) -> tuple[int, int] | None:
    """Return the side of the images that anchors are made for as (height, width), None for any
    size."""
    for path, value in walk(model, 'model'):
        if path.endswith('anchor_generator.input_size'):
            return (value, value) if isinstance(value, int) else tuple(value[::-1])
    return None


def made_up_batch(cfg: Config, size: tuple[int, int], seed: int = 0) -> dict[str, list]:
    """Return a batch as mmdet's data loaders give it, with masks and classes of pixels where
    they are loaded."""
    from mmdet.testing import demo_mm_inputs

    classes, pixel_classes = class_numbers(cfg.model)
    masks, semantic = _loaded(cfg)
    data = demo_mm_inputs(
        BATCH,
        (3, *size),
        num_items=[3] * BATCH,
        num_classes=max(classes, 2),
        with_mask=masks,
        with_semantic=semantic,
    )
    generator = torch.Generator().manual_seed(seed)
    for sample in data['data_samples']:
        instances = sample.gt_instances
        instances.labels = torch.randint(classes, instances.labels.shape, generator=generator)
        # Boxes of at least a cell at stride 32, wherever they were drawn.
        corner = (
            torch.rand(3, 2, generator=generator) * 0.5 * torch.tensor([size[1], size[0]])
        ).floor()
        instances.bboxes = torch.cat([corner, corner + torch.tensor([size[1], size[0]]) * 0.4], 1)
        if masks:
            instances.masks = _box_masks(instances.bboxes, size)
        if semantic:
            sample.gt_sem_seg.sem_seg = torch.randint(
                pixel_classes, (1, *size), generator=generator
            )
    return data


def class_numbers(model: dict[str, Any]) -> tuple[int, int]:
    """Return the number of classes of things, and of pixels."""
    found: dict[str, list[int]] = {}
    for path, value in walk(model, 'model'):
        key = path.rsplit('.', 1)[-1]
        if key in ('num_classes', 'num_things_classes', 'num_stuff_classes') and isinstance(
            value, int
        ):
            found.setdefault(key, []).append(value)
    things = found.get('num_things_classes') or found.get('num_classes') or [1]
    stuff = found.get('num_stuff_classes')
    pixels = things[0] + stuff[0] if stuff else max(found.get('num_classes') or [1])
    return min(things), pixels


def _loaded(cfg: Config) -> tuple[bool, bool]:
    """Return whether the training data has masks of instances, and classes of pixels."""
    masks = semantic = False
    for _, node in walk_dicts(cfg.get('train_dataloader')):
        if (kind := kind_of(node)) in ('LoadAnnotations', 'LoadPanopticAnnotations'):
            default = kind == 'LoadPanopticAnnotations'
            masks |= node.get('with_mask', default)
            semantic |= node.get('with_seg', default)
    return masks, semantic


def _box_masks(boxes: torch.Tensor, size: tuple[int, int]):
    import numpy as np
    from mmdet.structures.mask import BitmapMasks

    masks = np.zeros((len(boxes), *size), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist()):
        mask[top:bottom, left:right] = 1
    return BitmapMasks(masks, *size)


def _build(model: dict[str, Any]) -> nn.Module:
    built = revert_sync_batchnorm(MODELS.build(model))
    built.init_weights()
    built.train()
    return built


def _step(
    model: nn.Module, cfg: Config, size: tuple[int, int]
) -> tuple[dict[str, float], list[str]]:
    wrapper = cfg.get('optim_wrapper') or dict(optimizer=_OPTIMIZER)
    optimizer = build_plain(model, wrapper)
    for name in ('epoch', 'iter'):  # the runner tells how far training is; TOOD and BoxInst ask
        MessageHub.get_current_instance().update_info(name, 0)
    data = model.data_preprocessor(made_up_batch(cfg, size), True)
    loss, losses = model.parse_losses(model(**data, mode='loss'))
    optimizer.backward(loss)
    idle = idle_parameters(model.backbone)
    optimizer.step()
    return {name: float(value) for name, value in losses.items()}, idle


def _attempt(what: str, function, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except InputError:
        raise
    except Exception as error:  # whatever a module raises about its input
        raise InputError(f'{what}: {reason(error)}') from error
