"""Selection operators that PyTorch and ONNX spell differently, as one call each.

Each computes in PyTorch what its ONNX node computes, so that the same module runs before the
export. Their sizes depend on the data; ``setType`` tells the exporter that they are not constants.
"""

import torch
import torchvision.ops
from torch import Tensor

_INT64 = torch.iinfo(torch.int64).max


class _TopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, limit: int):
        return x.topk(min(limit, x.shape[0]))

    @staticmethod
    def symbolic(g, x, limit: int):
        limit = g.op('Constant', value_t=torch.tensor([limit]))
        values, indices = g.op('TopK', x, g.op('Min', limit, g.op('Shape', x)), outputs=2)
        values.setType(x.type().with_sizes([None]))
        indices.setType(torch._C.TensorType.get().with_dtype(torch.int64).with_sizes([None]))
        return values, indices


class _NonMaxSuppression(torch.autograd.Function):
    @staticmethod
    def forward(ctx, boxes: Tensor, scores: Tensor, limit: int, iou: float, threshold: float):
        kept = []
        for batch in range(scores.shape[0]):
            for group in range(scores.shape[1]):
                above = (scores[batch, group] > threshold).nonzero().flatten()
                keep = torchvision.ops.nms(boxes[batch, above], scores[batch, group, above], iou)
                keep = above[keep[:limit]]
                place = keep.new_tensor([batch, group]).expand(len(keep), 2)
                kept.append(torch.cat([place, keep[:, None]], 1))
        return torch.cat(kept)

    @staticmethod
    def symbolic(g, boxes, scores, limit: int, iou: float, threshold: float):
        constants = [
            g.op('Constant', value_t=torch.tensor([value])) for value in (limit, iou, threshold)
        ]
        kept = g.op('NonMaxSuppression', boxes, scores, *constants)
        kept.setType(torch._C.TensorType.get().with_dtype(torch.int64).with_sizes([None, 3]))
        return kept


def top_k(x: Tensor, limit: int):
    """Return the ``limit`` largest entries of ``x: (N,)``, or all if there are fewer, in descending
    order, and their indices. A limit below 1 means no limit."""
    return _TopK.apply(x, limit if limit > 0 else _INT64)


def non_max_suppression(
    boxes: Tensor, scores: Tensor, limit: int, iou: float, threshold: float
) -> Tensor:
    """Suppress boxes that overlap a higher-scoring one of their group.

    Args:
        boxes: ``(A, N, 4)`` as x1, y1, x2, y2.
        scores: ``(A, G, N)``; each of the ``A * G`` rows is a separate group.
        limit: most boxes kept per group; below 1 for no limit.
        iou: a box is dropped if its overlap exceeds this.
        threshold: boxes count if their score exceeds this.

    Returns:
        ``(K, 3)``: the numbers in A, G and N of each box kept.
    """
    return _NonMaxSuppression.apply(
        boxes, scores, limit if limit > 0 else _INT64, float(iou), float(threshold)
    )


def roi_align(maps: Tensor, boxes: Tensor, layer) -> Tensor:
    """Return what mmcv's RoIAlign ``layer`` makes of one image's ``maps`` at ``boxes: (N, 4)``."""
    rois = torch.cat([boxes.new_zeros(boxes.shape[0], 1), boxes], 1)
    return torchvision.ops.roi_align(
        maps,
        rois,
        layer.output_size,
        layer.spatial_scale,
        max(layer.sampling_ratio, 0),
        layer.aligned,
    )
