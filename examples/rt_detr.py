"""PRepBN in RT-DETR of transformers, trained on the built-in data: python examples/rt_detr.py

    pip install -r requirements/examples.txt

A small RT-DETR with random weights is trained for a few iterations, which shows that the loss
falls; its norms become BatchNorm on the way and affine maps in the end, which change no box. With
--out FILE.onnx the network without norms is written as well, after
pip install -r requirements/onnx.txt. Runs in a minute on two cores.
"""

import argparse
import json
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

from slab_det.datasets import make_shapes_dataset
from slab_det.deploy import FoldingReport, reparameterize
from slab_det.layers import PRepBNScheduler, convert_norms

SIDE, BATCH = 96, 8


def read_split(folder: Path, split: str) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    """Images ``(N, 3, SIDE, SIDE)``, and boxes by centre and size as fractions of the image."""
    content = json.loads((folder / f'annotations/instances_{split}.json').read_text())
    numbers = {category['id']: i for i, category in enumerate(content['categories'])}
    images, targets = [], []
    for entry in content['images']:
        pixels = cv2.imread(str(folder / split / entry['file_name']))[:, :, ::-1]
        pixels = cv2.resize(np.ascontiguousarray(pixels), (SIDE, SIDE))
        images.append(torch.from_numpy(pixels).permute(2, 0, 1) / 255)
        own = [one for one in content['annotations'] if one['image_id'] == entry['id']]
        boxes = torch.tensor([one['bbox'] for one in own], dtype=torch.float32).reshape(-1, 4)
        boxes[:, :2] += boxes[:, 2:] / 2
        boxes /= torch.tensor([entry['width'], entry['height']] * 2)
        labels = torch.tensor([numbers[one['category_id']] for one in own], dtype=torch.long)
        targets.append(dict(class_labels=labels, boxes=boxes))
    return torch.stack(images), targets


def build(num_labels: int) -> RTDetrForObjectDetection:
    backbone = RTDetrResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 1, 1, 1],
        layer_type='basic',
        out_features=['stage2', 'stage3', 'stage4'],
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        freeze_backbone_batch_norms=False,
        encoder_in_channels=[32, 48, 64],
        encoder_hidden_dim=32,
        encoder_ffn_dim=64,
        encoder_attention_heads=4,
        d_model=32,
        decoder_in_channels=[32, 32, 32],
        decoder_ffn_dim=64,
        decoder_layers=2,
        decoder_attention_heads=4,
        num_queries=30,
        num_denoising=20,
        num_labels=num_labels,
    )
    return RTDetrForObjectDetection(config)


class Raw(nn.Module):
    """The model as a function from images to logits and boxes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = self.model(pixel_values=images)
        return outputs.logits, outputs.pred_boxes


def export(model: nn.Module, images: torch.Tensor, path: str) -> None:
    """Write the graph for images of this size, and compare what it computes."""
    import onnxruntime

    torch.onnx.export(Raw(model).eval(), (images,), path, input_names=['images'], dynamo=True)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    _, boxes = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        expected = Raw(model)(images)[1].numpy()
    print(f'wrote {path}, whose boxes differ by {np.abs(boxes - expected).max():.1e}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--iterations', type=int, default=80)
    parser.add_argument('--out', metavar='FILE.onnx', help='write the network without norms')
    args = parser.parse_args()
    torch.manual_seed(0)

    with tempfile.TemporaryDirectory() as folder:
        make_shapes_dataset(f'{folder}/shapes', num_train=48, num_val=8, size=(96, 128))
        images, targets = read_split(Path(folder, 'shapes'), 'train')
        unseen, _ = read_split(Path(folder, 'shapes'), 'val')

    model = build(num_labels=1 + max(int(one['class_labels'].max()) for one in targets))
    count = convert_norms(model)
    print(f'{count} LayerNorm became PRepBN')
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    scheduler = PRepBNScheduler(model, total_iters=args.iterations)
    losses = []
    model.train()
    for _ in range(args.iterations):
        chosen = torch.randperm(len(images))[:BATCH]
        loss = model(pixel_values=images[chosen], labels=[targets[i] for i in chosen]).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        scheduler.step()
    tenth = max(args.iterations // 10, 1)
    first, last = (sum(part) / tenth for part in (losses[:tenth], losses[-tenth:]))
    print(f'loss {first:.2f} in the first tenth, {last:.2f} in the last')

    # In float64: the detector ranks its candidates, and rounding would swap those of equal score.
    model.double().eval()
    unseen = unseen.double()
    report = FoldingReport()
    deployed = reparameterize(model, example=dict(pixel_values=unseen), report=report)
    print(report)
    with torch.no_grad():
        (scores, boxes), (new_scores, new_boxes) = Raw(model)(unseen), Raw(deployed)(unseen)
    print(f'largest difference of a box (sides of the image are 1): {diff(boxes, new_boxes):.1e}')
    print(f'largest difference of a logit: {diff(scores, new_scores):.1e}')
    if args.out:
        export(deployed.float(), unseen[:1].float(), args.out)


def diff(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


if __name__ == '__main__':
    main()
