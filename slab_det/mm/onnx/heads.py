"""The prediction of mmdet's dense and RoI heads for one image, without data-dependent Python.

Each class takes a head as mmdet built it, uses its layers and repeats the arithmetic of its
``predict`` under its own ``test_cfg``. What is not known to be the same is refused.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slab_det.deploy.onnx.boxes import Anchors, Decoder, Suppression, suppress_by_class, take_best
from slab_det.deploy.onnx.ops import roi_align
from slab_det.errors import InputError

_NMS_KEYS = {'type', 'iou_threshold', 'class_agnostic', 'split_thr'}


class DenseLevels(nn.Module):
    """The candidates of an anchor head: its best predictions per level, decoded."""

    def __init__(self, head, cfg) -> None:
        super().__init__()
        _check_dense(head, cfg)
        self.head = head
        self.anchors = Anchors(head.prior_generator)
        self.decoder = Decoder(head.bbox_coder)
        self.limit = cfg.get('nms_pre', -1)

    def forward(self, maps: Sequence[Tensor], size: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return boxes ``(N, 4)``, scores and classes of every level."""
        outputs = self.head(maps)
        if len(outputs) != 2:
            raise InputError(
                f'{type(self.head).__name__} returns {len(outputs)} kinds of maps; only '
                'heads with scores and box deltas, such as RetinaHead, can be exported.'
            )
        levels = []
        for level, (logits, deltas) in enumerate(zip(*outputs)):
            anchors = self.anchors(level, *logits.shape[-2:])
            logits = logits.permute(0, 2, 3, 1).reshape(-1, self.head.cls_out_channels)
            deltas = deltas.permute(0, 2, 3, 1).reshape(-1, 4)
            if not self.head.use_sigmoid_cls:
                logits = logits.softmax(-1)[:, :-1]
            best, rows, classes = take_best(logits, self.limit)
            scores = best.sigmoid() if self.head.use_sigmoid_cls else best
            levels.append((self.decoder(anchors[rows], deltas[rows], size), scores, classes))
        return levels


class DenseDetections(nn.Module):
    """What a single-stage detector with an anchor head predicts."""

    def __init__(self, head, cfg) -> None:
        super().__init__()
        if cfg.get('min_bbox_size', -1) > 0:
            raise InputError(
                f'test_cfg.min_bbox_size is {cfg.min_bbox_size} pixels of the original '
                'image, whose size is not known in the file; set it to 0.'
            )
        self.levels = DenseLevels(head, cfg)
        self.suppression = Suppression(cfg, cfg.get('score_thr', 0))
        self.num_classes = head.num_classes

    def forward(self, maps: Sequence[Tensor], size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes ``(K, 4)``, scores and labels."""
        boxes, scores, labels = (torch.cat(parts) for parts in zip(*self.levels(maps, size)))
        return self.suppression(boxes, scores, labels, self.num_classes)


class Proposals(nn.Module):
    """What an mmdet ``RPNHead`` proposes."""

    def __init__(self, head, cfg) -> None:
        super().__init__()
        self.levels = DenseLevels(head, cfg)
        # Every proposal counts, however low its score.
        self.suppression = Suppression(cfg, -0.5)

    def forward(self, maps: Sequence[Tensor], size: Tensor) -> Tensor:
        """Return boxes ``(K, 4)``, falling by score."""
        levels = self.levels(maps, size)
        groups = [torch.full_like(classes, level) for level, (*_, classes) in enumerate(levels)]
        boxes, scores = (torch.cat(parts) for parts in list(zip(*levels))[:2])
        return self.suppression(boxes, scores, torch.cat(groups), len(levels))[0]


class RoIFeatures(nn.Module):
    """What an mmdet ``SingleRoIExtractor`` extracts; boxes choose their level by their size."""

    def __init__(self, extractor) -> None:
        super().__init__()
        from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

        _check_type('RoI extractor', extractor, SingleRoIExtractor)
        for layer in extractor.roi_layers:
            if type(layer).__name__ != 'RoIAlign' or layer.pool_mode != 'avg':
                raise InputError(
                    f'the RoI layer {layer} cannot be exported; use '
                    "dict(type='RoIAlign', pool_mode='avg')."
                )
        self.layers = list(extractor.roi_layers)
        self.finest_scale = extractor.finest_scale

    def forward(self, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Return features ``(K, C, h, w)`` of ``boxes: (K, 4)``."""
        if len(self.layers) == 1:
            return roi_align(maps[0], boxes, self.layers[0])
        sides = boxes[:, 2:] - boxes[:, :2]
        octave = (sides[:, 0] * sides[:, 1]).sqrt() / self.finest_scale + 1e-6
        # floor(log2(octave)) within the levels there are, without a logarithm.
        level = sum((octave >= 2**i).long() for i in range(1, len(self.layers)))
        features, order = [], []
        for i, layer in enumerate(self.layers):
            index = (level == i).nonzero().flatten()
            features.append(roi_align(maps[i], boxes[index], layer))
            order.append(index)
        order = torch.cat(order)
        place = torch.arange(order.shape[0])
        return torch.cat(features)[torch.zeros_like(order).scatter(0, order, place)]


class BoxDetections(nn.Module):
    """What an mmdet ``BBoxHead`` predicts from proposals."""

    def __init__(self, head, extractor, cfg) -> None:
        super().__init__()
        from mmdet.models.roi_heads.bbox_heads import BBoxHead

        _check_method('box head', head, BBoxHead, '_predict_by_feat_single')
        _check_coder(head.bbox_coder)
        _check_nms(cfg)
        if head.custom_cls_channels:
            raise InputError(
                f'the loss {type(head.loss_cls).__name__} activates scores in its own '
                'way and cannot be exported.'
            )
        self.head, self.cfg = head, cfg
        self.features = RoIFeatures(extractor)
        self.decoder = Decoder(head.bbox_coder)

    def forward(
        self, maps: Sequence[Tensor], proposals: Tensor, size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes ``(K, 4)``, scores and labels."""
        logits, deltas = self.head(self.features(maps, proposals))
        scores = logits.softmax(-1)[:, :-1]
        groups = 1 if self.head.reg_class_agnostic else self.head.num_classes
        repeated = proposals[:, None].expand(-1, groups, 4).reshape(-1, 4)
        boxes = self.decoder(repeated, deltas.reshape(-1, 4), size)
        if groups > 1:
            boxes = boxes.view(-1, groups, 4)
        return suppress_by_class(boxes, scores, self.cfg)


class MaskLogits(nn.Module):
    """What an mmdet ``FCNMaskHead`` predicts in boxes, for their own class."""

    def __init__(self, head, extractor) -> None:
        super().__init__()
        from mmdet.models.roi_heads.mask_heads import FCNMaskHead

        _check_method('mask head', head, FCNMaskHead, '_predict_by_feat_single')
        self.head = head
        self.features = RoIFeatures(extractor)

    def forward(self, maps: Sequence[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """Return logits ``(K, h, w)`` of the masks in ``boxes: (K, 4)``."""
        logits = self.head(self.features(maps, boxes))
        if self.head.class_agnostic:
            return logits[:, 0]
        number = torch.arange(labels.shape[0])
        return logits.flatten(0, 1)[number * self.head.num_classes + labels]


def _check_dense(head, cfg) -> None:
    from mmdet.models.dense_heads import RPNHead
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
    from mmdet.models.task_modules.prior_generators import AnchorGenerator

    base = RPNHead if isinstance(head, RPNHead) else BaseDenseHead
    for method in ('_predict_by_feat_single', '_bbox_post_process'):
        _check_method('head', head, base, method)
    generator = getattr(head, 'prior_generator', None)
    if not isinstance(generator, AnchorGenerator):
        raise InputError(
            f'{type(head).__name__} has no anchors ({type(generator).__name__}); only '
            'anchor heads such as RetinaHead and RPNHead can be exported.'
        )
    _check_method('anchor generator', generator, AnchorGenerator, 'single_level_grid_priors')
    if getattr(head.loss_cls, 'custom_cls_channels', False):
        raise InputError(
            f'the loss {type(head.loss_cls).__name__} activates scores in its own way '
            'and cannot be exported.'
        )
    _check_coder(head.bbox_coder)
    _check_nms(cfg)


def _check_coder(coder) -> None:
    from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder

    _check_type('box coder', coder, DeltaXYWHBBoxCoder)


def _check_nms(cfg) -> None:
    nms = cfg.get('nms')
    if not nms or nms.get('type', 'nms') != 'nms' or set(nms) - _NMS_KEYS:
        raise InputError(
            f'test_cfg.nms is {nms and dict(nms)}; only dict(type="nms", iou_threshold=...) '
            'can be exported.'
        )


def _check_type(what: str, module: Any, kind: type) -> None:
    if type(module) is not kind:
        raise InputError(
            f'the {what} {type(module).__name__} cannot be exported; {kind.__name__} can.'
        )


def _check_method(what: str, module: Any, base: type, method: str) -> None:
    if getattr(type(module), method, None) is not getattr(base, method):
        raise InputError(
            f'the {what} {type(module).__name__} predicts in its own way and cannot be '
            f'exported; {base.__name__} and what only changes its layers can.'
        )
