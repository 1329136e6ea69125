"""Beginning the RepBN branch of PRepBN where LayerNorm is, instead of untrained."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from slab_det.errors import InputError
from slab_det.layers import PRepBN, RepBN

from .moments import Moments
from .passes import Progress, check_run, frozen_parameters, run_watched
from .sites import modes_kept


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
        batches, forward, progress: see :func:`~slab_det.statistics.calibrate_batch_norm`.

    Returns:
        By norm, the share of the variance of LayerNorm's output, over all channels, that the new
        branch explains: 1 where both are equal. Norms that fewer than two tokens reach are left
        alone.

    Raises:
        InputError: an argument is of a wrong type, there is no PRepBN, a ratio is not 1, or
            ``batches`` is empty.
    """
    check_run(model, batches, forward, progress)
    norms = {name: module for name, module in model.named_modules() if isinstance(module, PRepBN)}
    if not norms:
        raise InputError(
            f'{type(model).__name__} has no PRepBN to fit: build it with '
            "norm_cfg=dict(type='PRepBN')."
        )
    lowest = min(float(norm.ratio) for norm in norms.values())
    if lowest != 1:
        raise InputError(
            f'a PRepBN is at ratio {lowest:.4g}, not 1: only a network that still runs on '
            'LayerNorm has a branch to fit to; load a LayerNorm checkpoint.'
        )
    forward = forward or getattr(model, 'test_step', None) or model
    moments = {name: Moments(norm.ln.weight, quantities=2) for name, norm in norms.items()}
    with frozen_parameters(model), modes_kept(model):
        model.eval()
        run_watched(
            [(norms[name], partial(_watch, moment)) for name, moment in moments.items()],
            forward,
            batches if progress is None else progress(batches, 1),
            like=next(iter(norms.values())).ratio,
        )
    explained = {}
    for name, moment in moments.items():
        moment.reduce()
        if moment.count > 1:
            explained[name] = _write(norms[name].repbn, moment)
    return explained


@torch.no_grad()
def _watch(moments: Moments, norm: PRepBN, inputs: tuple[Tensor, ...]) -> None:
    """Add the input x of a norm and LayerNorm's output y."""
    x = inputs[0].detach().flatten(0, -2)
    if x.shape[0]:
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(norm.ln.weight.dtype)
            moments.add(torch.stack([x, norm.ln(x)]))


def _write(repbn: RepBN, moments: Moments) -> float:
    """Set the branch; return the share of the variance of y that it explains."""
    xx, xy, yy = moments.products
    bn, var = repbn.bn, xx / (moments.count - 1)
    slope = torch.where(xx > 0, xy / xx.clamp(min=1e-300), torch.zeros_like(xx))
    bn.running_mean.copy_(moments.means[0])
    bn.running_var.copy_(var)
    bn.weight.copy_(slope * torch.sqrt(var + bn.eps))
    bn.bias.copy_(moments.means[1])
    repbn.eta.zero_()
    return float((slope * xy).sum() / yy.sum().clamp(min=1e-300))
