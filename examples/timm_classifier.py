"""PRepBN in a model of timm, by two lines added to its training: python examples/timm_classifier.py

The two lines end in "# added". Runs in seconds on a CPU.
"""

import argparse

import timm
import torch
from torch import nn

from slab_det.deploy import FoldingReport, reparameterize
from slab_det.layers import PRepBNScheduler, convert_norms


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Images of noise; the class is the channel that is brighter than the others."""
    labels = torch.randint(3, (16,))
    images = torch.randn(16, 3, 64, 64)
    images[range(16), labels] += 0.3
    return images, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--iterations', type=int, default=60)
    iterations = parser.parse_args().iterations
    torch.manual_seed(0)

    model = timm.create_model('vit_tiny_patch16_224', img_size=64, depth=2, num_classes=3)
    convert_norms(model)  # added
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedulers = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)]
    schedulers.append(PRepBNScheduler(model, iterations))  # added
    for iteration in range(iterations):
        images, labels = batch()
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if iteration % (iterations // 5) == 0 or iteration == iterations - 1:
            print(f'{iteration:>4}  loss {loss:.3f}')
        for scheduler in schedulers:
            scheduler.step()

    model.eval()
    images, labels = batch()
    report = FoldingReport()
    deployed = reparameterize(model, example=images, report=report)
    print(report)
    with torch.no_grad():
        before, after = model(images), deployed(images)
    print(f'accuracy {(after.argmax(1) == labels).float().mean():.2f}')
    difference = (after - before).abs().max() / before.abs().max()
    print(f'largest difference of the logits: {difference:.1e} of the largest')


if __name__ == '__main__':
    main()
