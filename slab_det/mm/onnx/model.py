"""A whole mmdet detector as one module from pixels to detections, ready to be exported."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slab_det.errors import InputError

from .heads import BoxDetections, DenseDetections, MaskLogits, Proposals


class DetectorGraph(nn.Module):
    """A detector's inference for one image, from bytes to detections, at any size.

    Normalisation and padding are part of it; resizing is not.

    Args:
        detector: a single-stage mmdet detector with an anchor head such as RetinaNet, or a
            two-stage one, Faster R-CNN or Mask R-CNN. Its modules are used, not copied.

    Raises:
        InputError: the detector has a part whose prediction is not known here.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        from mmdet.models.detectors import SingleStageDetector, TwoStageDetector

        self.preprocessing = Preprocessing(detector.data_preprocessor)
        self.backbone = detector.backbone
        self.neck = detector.neck if detector.with_neck else nn.Identity()
        self.with_masks = False
        predict = type(detector).predict
        self.two_stage = predict is TwoStageDetector.predict
        if self.two_stage:
            self._build_two_stages(detector)
        elif predict is SingleStageDetector.predict:
            self.detections = DenseDetections(detector.bbox_head, detector.test_cfg)
        else:
            raise InputError(
                f'the detector {type(detector).__name__} cannot be exported; RetinaNet, '
                'Faster R-CNN and Mask R-CNN can.'
            )

    def _build_two_stages(self, detector: nn.Module) -> None:
        from mmdet.models.roi_heads import StandardRoIHead

        roi_head = detector.roi_head
        if (
            type(roi_head) is not StandardRoIHead
            or roi_head.with_shared_head
            or not detector.with_rpn
        ):
            raise InputError(
                f'the RoI head {type(roi_head).__name__} of {type(detector).__name__} '
                'cannot be exported; a StandardRoIHead behind an RPNHead can.'
            )
        self.proposals = Proposals(detector.rpn_head, detector.test_cfg.rpn)
        self.detections = BoxDetections(
            roi_head.bbox_head, roi_head.bbox_roi_extractor, detector.test_cfg.rcnn
        )
        self.with_masks = roi_head.with_mask
        if self.with_masks:
            # A shared extractor is the box head's.
            extractor = roi_head.mask_roi_extractor
            self.masks = MaskLogits(roi_head.mask_head, extractor)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what :meth:`forward` returns."""
        return ('boxes', 'scores', 'labels') + ('masks',) * self.with_masks

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detect on one image.

        Args:
            image: bytes ``(1, H, W, 3)``, channels blue, green, red.

        Returns:
            boxes ``(K, 4)`` as x1, y1, x2, y2 in pixels of ``image``, scores ``(K, )`` falling,
            labels ``(K, )``, and mask logits ``(K, h, w)`` of each box's label where there is a
            mask head.
        """
        x, size = self.preprocessing(image)
        maps = self.neck(self.backbone(x))
        if not self.two_stage:
            return self.detections(maps, size)
        boxes, scores, labels = self.detections(maps, self.proposals(maps, size), size)
        if not self.with_masks:
            return boxes, scores, labels
        return boxes, scores, labels, self.masks(maps, boxes, labels)


class Preprocessing(nn.Module):
    """What an mmdet ``DetDataPreprocessor`` makes of an image: its channels' order,
    normalisation and padding to whole multiples of a divisor."""

    def __init__(self, preprocessor: Any) -> None:
        super().__init__()
        from mmdet.models.data_preprocessors import DetDataPreprocessor

        if type(preprocessor) is not DetDataPreprocessor:
            raise InputError(
                f'the data preprocessor {type(preprocessor).__name__} cannot be exported; '
                'DetDataPreprocessor can.'
            )
        self.swaps_channels = preprocessor._channel_conversion
        self.divisor = preprocessor.pad_size_divisor
        self.pad_value = preprocessor.pad_value
        normalized = preprocessor._enable_normalize
        self.register_buffer(
            'mean', preprocessor.mean.clone() if normalized else torch.zeros(3, 1, 1)
        )
        self.register_buffer('std', preprocessor.std.clone() if normalized else torch.ones(3, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the padded image ``(1, 3, H', W')`` and ``(4, )`` W, H, W, H of ``image: (1, H, W,
        3)``."""
        height, width = image.shape[1], image.shape[2]
        size = torch.stack([torch.as_tensor(side) for side in (width, height, width, height)])
        x = image.permute(0, 3, 1, 2).float()
        if self.swaps_channels:
            x = x[:, [2, 1, 0]]
        x = (x - self.mean) / self.std
        if self.divisor > 1:
            x = F.pad(
                x, (0, -width % self.divisor, 0, -height % self.divisor), value=self.pad_value
            )
        return x, size.to(x)
