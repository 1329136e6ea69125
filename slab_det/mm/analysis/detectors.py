"""The cost of an mmdet detector for one image."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData
from torch import Tensor, nn

from .multiply_adds import Cost, count_costs

#: What a second stage gets that has no first one (Fast R-CNN).
NUM_PROPOSALS = 1000


def backbone_cost(backbone: nn.Module, shape: tuple[int, int]) -> Cost:
    """Return the cost of ``backbone`` for an image of ``shape`` = (height, width) pixels."""
    backbone.eval()
    image = _image(backbone, shape)
    return sum(count_costs(backbone, lambda: backbone(image)).values(), Cost())


def detector_cost(detector: nn.Module, shape: tuple[int, int]) -> dict[str, Cost]:
    """Return the cost of every part of an mmdet detector for one image.

    What is counted is the forward pass without post-processing. The second stage gets
    :func:`proposals_of` proposals, so that the result depends on no weights; mmdet's mask heads
    take the first 100 of them.

    Args:
        detector: built, on the device that is to do the work.
        shape: height and width of the image in pixels, as the network sees it: resized, padded.

    Raises:
        NotImplementedError: the detector has no ``mode='tensor'``.
    """
    detector.eval()
    image = _image(detector, shape)
    sample = _sample(image)
    rpn = getattr(detector, 'rpn_head', None)
    if rpn is not None:
        rpn.predict = _FixedProposals(rpn.predict, proposals_of(detector))
    try:
        return count_costs(detector, lambda: detector(image, [sample], mode='tensor'))
    finally:
        if rpn is not None:
            del rpn.predict


def proposals_of(detector: nn.Module) -> int | None:
    """Return how many proposals the second stage gets: ``test_cfg.rpn.max_per_img``, 1000 if
    they come from outside; None if there is no second stage or it has learned proposals."""
    if getattr(detector, 'roi_head', None) is None:
        return None
    if getattr(detector, 'rpn_head', None) is None:
        return NUM_PROPOSALS
    settings = detector.test_cfg.get('rpn')
    return settings and settings['max_per_img']


class _FixedProposals:
    """An RPN's ``predict`` that does its work and then returns small boxes.

    Args:
        predict: of the RPN.
        number: how many boxes; None for as many as there are, which keep what else is known of
            them (learned proposals have features).
    """

    def __init__(self, predict: Callable, number: int | None) -> None:
        self.predict = predict
        self.number = number

    def __call__(self, x: tuple[Tensor, ...], *args: Any, **kwargs: Any) -> list[InstanceData]:
        (proposals,) = self.predict(x, *args, **kwargs)
        if self.number is None:
            proposals.bboxes = _boxes(x[0], len(proposals))
            return [proposals]
        boxes = _boxes(x[0], self.number)
        return [InstanceData(bboxes=boxes, scores=boxes[:, 0], labels=boxes[:, 0].long())]


def _boxes(like: Tensor, number: int) -> Tensor:
    return like.new_tensor([0, 0, 32, 32]).repeat(number, 1)


def _sample(image: Tensor) -> DetDataSample:
    """Return a sample with one object: some heads look at it in their forward pass."""
    shape = tuple(image.shape[-2:])
    sample = DetDataSample(
        metainfo=dict(
            img_id=0,
            ori_shape=shape,
            img_shape=shape,
            pad_shape=shape,
            batch_input_shape=shape,
            scale_factor=(1.0, 1.0),
            flip=False,
        )
    )
    boxes = _boxes(image, 1)
    sample.gt_instances = InstanceData(
        bboxes=boxes,
        labels=boxes[:, 0].long(),
        masks=BitmapMasks(np.ones((1, *shape), np.uint8), *shape),
    )
    sample.proposals = InstanceData(bboxes=_boxes(image, NUM_PROPOSALS))
    return sample


def _image(module: nn.Module, shape: tuple[int, int]) -> Tensor:
    return torch.zeros(1, 3, *shape, device=next(module.parameters()).device)
