"""Comparison of an exported detector with the PyTorch detector that it came from."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn


class Difference(NamedTuple):
    """How the detections of two detectors differ on one image.

    Attributes:
        count: detections of the first.
        extra: how many more detections the second has; negative if it has fewer.
        matched: detections of the first that the second has too: the same label, every side of the
            box within a pixel, the score within 0.01.
        box: largest difference of a box's side among the matched, in pixels.
        score: largest difference of a score among the matched.
        mask: largest difference of a mask's probability among the matched; 0 without masks.
    """

    count: int
    extra: int
    matched: int
    box: float
    score: float
    mask: float

    def __str__(self) -> str:
        return (
            f'{self.matched} of {self.count} detections matched ({self.extra:+d}); largest '
            f'difference: box {self.box:.2g} pixels, score {self.score:.2g}'
            + (f', mask {self.mask:.2g}' if self.mask else '')
        )


def compare(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> Difference:
    """Match detections, dicts of ``boxes``, ``scores``, ``labels`` and perhaps ``masks`` (logits).

    Detections whose scores are close may come in another order, so that each is matched with the
    nearest one that is left.
    """
    left = np.ones(len(second['scores']), bool)
    matched, box, score, mask = 0, 0.0, 0.0, 0.0
    for i, label in enumerate(first['labels']):
        box_gap = np.abs(second['boxes'] - first['boxes'][i]).max(1)
        score_gap = np.abs(second['scores'] - first['scores'][i])
        near = left & (second['labels'] == label) & (box_gap < 1) & (score_gap < 0.01)
        if not near.any():
            continue
        j = np.flatnonzero(near)[np.argmin((box_gap + 100 * score_gap)[near])]
        left[j] = False
        matched += 1
        box, score = max(box, float(box_gap[j])), max(score, float(score_gap[j]))
        if 'masks' in first:
            gap = _probability(first['masks'][i]) - _probability(second['masks'][j])
            mask = max(mask, float(np.abs(gap).max()))
    count = len(first['scores'])
    return Difference(count, len(second['scores']) - count, matched, box, score, mask)


def torch_detections(detector: nn.Module, image: np.ndarray) -> dict[str, np.ndarray]:
    """Return what an mmdet detector itself predicts, as its ONNX file would.

    Args:
        detector: in evaluation mode.
        image: ``(H, W, 3)`` bytes, as resized by the test pipeline.
    """
    from mmdet.structures import DetDataSample

    logits = []
    hook = None
    if getattr(detector, 'with_mask', False):
        # The masks that predict() returns are pasted and thresholded already.
        hook = detector.roi_head.mask_head.register_forward_hook(
            lambda module, inputs, output: logits.append(output)
        )
    meta = dict(
        img_id=0, img_shape=image.shape[:2], ori_shape=image.shape[:2], scale_factor=(1.0, 1.0)
    )
    inputs = torch.from_numpy(image).permute(2, 0, 1)
    try:
        with torch.no_grad():
            sample = detector.test_step(
                dict(inputs=[inputs], data_samples=[DetDataSample(metainfo=meta)])
            )[0]
    finally:
        if hook is not None:
            hook.remove()
    found = sample.pred_instances
    result = dict(
        boxes=found.bboxes.numpy(), scores=found.scores.numpy(), labels=found.labels.numpy()
    )
    if hook is not None:
        maps = torch.cat(logits) if logits else torch.zeros(0, 1, 28, 28)
        one_class = detector.roi_head.mask_head.class_agnostic
        labels = torch.zeros_like(found.labels) if one_class else found.labels
        result['masks'] = maps[torch.arange(len(labels)), labels].numpy()
    return result


def noise_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return ``(height, width, 3)`` bytes of blobs of every size, for a detector to find."""
    import cv2

    generator = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.float32)
    for cell in (4, 16, 64):
        cells = generator.random((max(height // cell, 2), max(width // cell, 2), 3), np.float32)
        image += cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR)
    return (image / image.max() * 255).astype(np.uint8)


def comparison_sizes(resize, size=None) -> Sequence[tuple[int, int]]:
    """Return heights and widths to compare at: those of the test pipeline, and others that no
    window divides; only ``size`` if the file is of that size.

    Args:
        resize: of the file's metadata.
    """
    if size is not None:
        return [tuple(size)]
    sizes = [(61, 47), (131, 250)]
    if resize is not None:
        width, height = resize['scale']
        sizes += [(height, width), (width, height)] if resize['keep_ratio'] else [(height, width)]
    return sizes


def _probability(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * logits))
