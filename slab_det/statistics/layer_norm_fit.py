"""Beginning the RepBN branch of PRepBN where LayerNorm is, instead of untrained."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from slab_det.layers import PRepBN
from slab_det.layers.batch_norm import is_distributed

from .calibration import Progress, check_run, frozen_parameters, modes_kept, run_watched


@torch.no_grad()
def fit_repbn_to_layer_norm(
    model: nn.Module,
    batches: Iterable[Any],
    forward: Callable[[Any], Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    r"""Make the RepBN branch of every PRepBN the affine map per channel that is closest to its
    LayerNorm.

    A new branch computes ``BN(x) + x``, whatever the LayerNorm beside it does, so that a trained
    network breaks as soon as the ratio leaves 1. Over all tokens of the images, with
    :math:`y = \mathrm{LN}(x)` of one channel, the map :math:`a x + c` of the smallest mean square
    difference from y has

    .. math:: a = \frac{\mathrm{cov}(x, y)}{\mathrm{var}(x)}, \qquad c = \bar y - a \bar x

    which RepBN computes with its statistics at :math:`\bar x` and :math:`v = \mathrm{var}(x)`, its
    ``eta`` at 0, its weight at :math:`a \sqrt{v + \epsilon}` and its bias at :math:`\bar y`. All of
    them go on learning. At ratio 1 the outputs of the model do not change, so one pass settles all
    norms. In a process group the sums are those of all processes.

    Args:
        model: a model whose PRepBN are all at ratio 1, as after loading a LayerNorm checkpoint.
        batches, forward, progress: see :func:`slab_det.statistics.calibration.calibrate_batch_norm`.

    Returns:
        By norm, the share of the variance of LayerNorm's output, over all channels, that the new branch
        explains: 1 where both are equal. Norms that fewer than two tokens reach are left alone.

    Raises:
        TypeError: an argument is of a type that it cannot be.
        ValueError: there is no PRepBN, a ratio is not 1, or ``batches`` is empty.
    """
    check_run(model, batches, forward, progress)
    norms = {name: module for name, module in model.named_modules() if isinstance(module, PRepBN)}
    if not norms:
        raise ValueError(
            f'{type(model).__name__} has no PRepBN to fit: build it with '
            "norm_cfg=dict(type='PRepBN')."
        )
    lowest = min(float(norm.ratio) for norm in norms.values())
    if lowest != 1:
        raise ValueError(
            f'a PRepBN is at ratio {lowest:.4g}, not 1: only a network that still runs on '
            'LayerNorm has a branch to fit to; load a LayerNorm checkpoint.'
        )
    forward = forward or getattr(model, 'test_step', None) or model
    moments = {name: _JointMoments(norm) for name, norm in norms.items()}
    with frozen_parameters(model), modes_kept(model):
        model.eval()
        run_watched(
            [(norms[name], moment.watch) for name, moment in moments.items()],
            forward,
            batches if progress is None else progress(batches, 1),
            like=next(iter(norms.values())).ratio,
        )
    explained = {}
    for name, moment in moments.items():
        moment.reduce()
        if moment.count > 1:
            explained[name] = moment.write()
    return explained


class _JointMoments:
    """Number, means, squared deviations and their products of a norm's input x and LayerNorm's
    output y, as rows ``x, y`` and ``xx, xy, yy``, merged in float64."""

    def __init__(self, norm: PRepBN) -> None:
        self.norm = norm
        like = dict(dtype=torch.float64, device=norm.ratio.device)
        self.count = torch.zeros((), **like)
        self.means = torch.zeros(2, norm.num_features, **like)
        self.products = torch.zeros(3, norm.num_features, **like)

    @torch.no_grad()
    def watch(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach().flatten(0, -2)
        if not x.shape[0]:
            return
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(module.ln.weight.dtype)
            both = torch.stack([x, module.ln(x)])
        means = both.mean(1)
        x, y = both - means[:, None]
        products = torch.stack([(x * x).sum(0), (x * y).sum(0), (y * y).sum(0)]).double()
        count, means = torch.full_like(self.count, x.shape[0]), means.double()
        total = self.count + count
        x, y = means - self.means
        self.products += products + torch.stack([x * x, x * y, y * y]) * (
            self.count * count / total
        )
        self.means += (means - self.means) * (count / total)
        self.count = total

    def reduce(self) -> None:
        """Make them the moments of the tokens of all processes."""
        if not is_distributed():
            return
        total = torch.cat([self.count[None], (self.count * self.means).flatten()])
        dist.all_reduce(total)
        means = total[1:].view_as(self.means) / total[0].clamp(min=1)
        x, y = self.means - means
        self.products += self.count * torch.stack([x * x, x * y, y * y])
        dist.all_reduce(self.products)
        self.count, self.means = total[0], means

    def write(self) -> float:
        """Set the branch; return the share of the variance of y that it explains."""
        xx, xy, yy = self.products
        bn = self.norm.repbn.bn
        slope = torch.where(xx > 0, xy / xx.clamp(min=1e-300), torch.zeros_like(xx))
        bn.running_mean.copy_(self.means[0])
        bn.running_var.copy_(xx / (self.count - 1))
        bn.weight.copy_(slope * torch.sqrt(xx / (self.count - 1) + bn.eps))
        bn.bias.copy_(self.means[1])
        self.norm.repbn.eta.zero_()
        return float((slope * xy).sum() / yy.sum().clamp(min=1e-300))
