"""PRepBN in a training loop of plain PyTorch: python examples/plain_loop.py

A classifier of tokens with LayerNorm is trained, its norms become BatchNorm on the way, and in the
end they fold into the linear layers behind them. Runs in seconds on a CPU.
"""

import argparse

import torch
from torch import nn

from slab_det.deploy import FoldingReport, reparameterize
from slab_det.layers import PRepBNScheduler, convert_norms

WIDTH, CLASSES = 32, 4


class Block(nn.Module):
    """Attention and a feed-forward part, each behind its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        x = x + nn.functional.scaled_dot_product_attention(query, key, value)
        return x + self.mlp(self.norm2(x))


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(x)).mean(dim=1))


def batch(prototypes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sixteen tokens for each sample, noise around the prototype of its class."""
    labels = torch.randint(CLASSES, (32,))
    return prototypes[labels] + 6 * torch.randn(32, 16, WIDTH), labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--iterations', type=int, default=200)
    iterations = parser.parse_args().iterations
    torch.manual_seed(0)
    prototypes = torch.randn(CLASSES, 1, WIDTH)

    model = Classifier()
    convert_norms(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = PRepBNScheduler(model, total_iters=iterations)
    for iteration in range(iterations):
        tokens, labels = batch(prototypes)
        loss = nn.functional.cross_entropy(model(tokens), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if iteration % (iterations // 5) == 0 or iteration == iterations - 1:
            print(f'{iteration:>4}  loss {loss:.3f}  ratio {scheduler.get_last_ratio():.2f}')
        scheduler.step()
        # To resume: save model, optimizer and scheduler.state_dict(); load them in this order.

    model.eval()
    tokens, labels = batch(prototypes)
    report = FoldingReport()
    deployed = reparameterize(model, example=tokens, report=report)
    print(report)
    with torch.no_grad():
        before, after = model(tokens), deployed(tokens)
    print(f'accuracy {(after.argmax(1) == labels).float().mean():.2f}')
    difference = (after - before).abs().max() / before.abs().max()
    print(f'largest difference of the logits: {difference:.1e} of the largest')


if __name__ == '__main__':
    main()
