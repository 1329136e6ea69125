"""Means and co-moments of tokens, merged over batches and processes in float64."""

from itertools import combinations_with_replacement

import torch
from torch import Tensor

from slab_det.layers.batch_norm import joint_mean, sum_of_processes


class Moments:
    r"""Number, means and co-moments per channel of quantities that come as tokens.

    Args:
        like: a tensor ``(C,)`` on the device where they are kept.
        quantities: how many, such as 2 for the input and the output of a norm.

    Attributes:
        count: number M of tokens, ``()``.
        means: ``(quantities, C)``.
        products: :math:`\sum_i (u_i - \bar u)(v_i - \bar v)` for each pair of quantities,
            ``xx``, or ``xx, xy, yy``, as rows ``(pairs, C)``.
    """

    def __init__(self, like: Tensor, quantities: int = 1) -> None:
        self._pairs = list(combinations_with_replacement(range(quantities), 2))
        self.count = torch.zeros((), dtype=torch.float64, device=like.device)
        self.means = self.count.new_zeros(quantities, like.numel())
        self.products = self.count.new_zeros(len(self._pairs), like.numel())

    @torch.no_grad()
    def add(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Merge tokens ``(quantities, M, C)`` in; return their own means and mean products."""
        if tokens.dtype in (torch.float16, torch.bfloat16):
            tokens = tokens.float()
        variances, means = torch.var_mean(tokens, 1, correction=0)
        products = torch.stack(
            [
                variances[i]
                if i == j
                else ((tokens[i] - means[i]) * (tokens[j] - means[j])).mean(0)
                for i, j in self._pairs
            ]
        )
        count = torch.full_like(self.count, tokens.shape[1])
        total = self.count + count
        # The means are subtracted first, so that nothing cancels.
        delta = means.double() - self.means
        self.products += products.double() * count
        self.products += self._product(delta) * (self.count * count / total)
        self.means += delta * (count / total)
        self.count = total
        return means, products

    def reduce(self) -> None:
        """Make them the moments of the tokens of all processes."""
        means, count = joint_mean(self.count * self.means, self.count)
        products = self.products + self.count * self._product(self.means - means)
        self.products = sum_of_processes(products)
        self.means, self.count = means, count

    def _product(self, values: Tensor) -> Tensor:
        return torch.stack([values[i] * values[j] for i, j in self._pairs])
