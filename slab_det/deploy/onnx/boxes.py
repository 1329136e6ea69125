"""Anchors, box decoding and suppression of mmdet's detectors with sizes that are tensors.

Everything is for one image. Results equal those of mmdet's ``predict``; where mmdet sorts all
scores, the few that can matter are taken out first.
"""

from math import log

import torch
from torch import Tensor, nn

from .ops import non_max_suppression, top_k

#: Score of a box that must not be kept: below every probability and above no threshold.
NEVER = -1.0


class Anchors(nn.Module):
    """The anchors of an mmdet ``AnchorGenerator``, for maps of any size."""

    def __init__(self, generator) -> None:
        super().__init__()
        self.strides = generator.strides
        for level, base in enumerate(generator.base_anchors):
            self.register_buffer(f'base{level}', base.clone().float())

    def forward(self, level: int, height: Tensor, width: Tensor) -> Tensor:
        """Return the anchors ``(height * width * A, 4)`` of the map of ``level``."""
        stride_x, stride_y = self.strides[level]
        base = getattr(self, f'base{level}')
        x = torch.arange(width).to(base)[None, :, None] * stride_x
        y = torch.arange(height).to(base)[:, None, None] * stride_y
        x1, y1, x2, y2 = base.unbind(1)
        parts = torch.broadcast_tensors(x + x1, y + y1, x + x2, y + y2)
        return torch.stack(parts, -1).view(-1, 4)


class Decoder(nn.Module):
    """The boxes that an mmdet ``DeltaXYWHBBoxCoder`` decodes."""

    def __init__(self, coder) -> None:
        super().__init__()
        self.register_buffer('means', torch.tensor([coder.means], dtype=torch.float32))
        self.register_buffer('stds', torch.tensor([coder.stds], dtype=torch.float32))
        self.clip_border = coder.clip_border
        self.center_limit = coder.ctr_clamp if coder.add_ctr_clamp else None

    def forward(self, boxes: Tensor, deltas: Tensor, size: Tensor) -> Tensor:
        """Return boxes ``(N, 4)``.

        Args:
            boxes: anchors or proposals ``(N, 4)``.
            deltas: ``(N, 4)``.
            size: ``(4, )``, width, height, width and height of the image, to which boxes are
                clipped.
        """
        deltas = deltas * self.stds + self.means
        scale = boxes[:, 2:] - boxes[:, :2]
        move, grow = scale * deltas[:, :2], deltas[:, 2:]
        ratio = abs(log(16 / 1000))  # mmdet's wh_ratio_clip, which its coder does not change
        if self.center_limit is None:
            grow = grow.clamp(-ratio, ratio)
        else:
            move, grow = move.clamp(-self.center_limit, self.center_limit), grow.clamp(max=ratio)
        center = (boxes[:, :2] + boxes[:, 2:]) * 0.5 + move
        half = scale * grow.exp() * 0.5
        decoded = torch.cat([center - half, center + half], 1)
        if self.clip_border:
            decoded = torch.minimum(decoded.clamp(min=0), size)
        return decoded


class Suppression(nn.Module):
    """Non-maximum suppression by groups, then the best boxes of all, by descending score.

    Args:
        cfg: ``test_cfg`` of the head, with ``nms`` and ``max_per_img``.
        threshold: boxes count where their score is above it.
    """

    def __init__(self, cfg, threshold: float) -> None:
        super().__init__()
        self.limit = cfg.get('max_per_img', -1)
        self.iou = cfg.nms['iou_threshold']
        self.agnostic = cfg.nms.get('class_agnostic', False)
        self.min_size = cfg.get('min_bbox_size', -1)
        self.threshold = threshold

    def forward(
        self, boxes: Tensor, scores: Tensor, groups: Tensor, count: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes ``(K, 4)``, scores and groups that are kept.

        Args:
            boxes: ``(N, 4)``.
            scores: ``(N, )``.
            groups: ``(N, )`` number of each box's group, below ``count``. Boxes of different groups
                do not suppress each other.
            count: how many groups there are.
        """
        if self.min_size >= 0:
            sides = boxes[:, 2:] - boxes[:, :2]
            large = (sides > self.min_size).all(1)
            scores = torch.where(large, scores, scores.new_tensor(NEVER))
        rows = scores[None]
        if not self.agnostic and count > 1:
            own = torch.arange(count)[:, None] == groups[None]
            rows = torch.where(own, rows, scores.new_tensor(NEVER))
        kept = non_max_suppression(boxes[None], rows[None], self.limit, self.iou, self.threshold)
        kept = kept[:, 2]
        best, order = top_k(scores[kept], self.limit)
        kept = kept[order]
        return boxes[kept], best, groups[kept]


def take_best(logits: Tensor, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the ``limit`` largest of ``logits: (N, C)``, their rows and their columns.

    A row that holds one of them has one of the ``limit`` largest row maxima, so that only those
    rows' entries are compared.
    """
    columns = logits.shape[1]
    if columns == 1:
        best, rows = top_k(logits[:, 0], limit)
        return best, rows, torch.zeros_like(rows)
    rows = top_k(logits.amax(1), limit)[1]
    best, entries = top_k(logits[rows].flatten(), limit)
    picked = torch.div(entries, int(columns), rounding_mode='floor')
    return best, rows[picked], entries - picked * int(columns)


def suppress_by_class(boxes: Tensor, scores: Tensor, cfg) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes ``(K, 4)``, scores and labels as mmdet's ``multiclass_nms`` does.

    Args:
        boxes: ``(N, 4)``, or ``(N, C, 4)`` with separate boxes for every class.
        scores: ``(N, C)``.
        cfg: ``test_cfg`` of the box head, with ``score_thr``, ``nms`` and ``max_per_img``.
    """
    limit, iou, threshold = cfg.get('max_per_img', -1), cfg.nms['iou_threshold'], cfg.score_thr
    classes = int(scores.shape[1])
    boxes = boxes.view(-1, 1, 4).expand(-1, classes, 4) if boxes.dim() == 2 else boxes
    if cfg.nms.get('class_agnostic', False):
        kept = non_max_suppression(
            boxes.reshape(1, -1, 4), scores.reshape(1, 1, -1), limit, iou, threshold
        )
        flat = kept[:, 2]
    else:
        kept = non_max_suppression(
            boxes.transpose(0, 1), scores.t().unsqueeze(1), limit, iou, threshold
        )
        flat = kept[:, 2] * classes + kept[:, 0]
    best, order = top_k(scores.reshape(-1)[flat], limit)
    flat = flat[order]
    return boxes.reshape(-1, 4)[flat], best, flat % classes
