"""Recomputing BatchNorm statistics while all parameters are frozen.

Sources: Guo et al., "SLAB", ICML 2024, section 3.2, where parameters are frozen at the end of
training and the statistics of RepBN alone are updated; Wu and Johnson, "Rethinking Batch in
BatchNorm", 2021, section 3, on averages over images in place of running ones.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Iterator as OneShot
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import (
    Any,
    NamedTuple,
)

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slab_det.layers import PRepBN, RepBN
from slab_det.layers.batch_norm import is_distributed

#: Mean and variance of each norm, by its name.
Statistics = dict[str, tuple[Tensor, Tensor]]
#: Wraps the batches of a pass, given its number from 1, to show how far it is.
Progress = Callable[[Iterable, int], Iterable]


class NormSite(NamedTuple):
    """A BatchNorm ``bn``, and the module ``entry``, called ``name``, whose input it normalises.

    They differ for RepBN and PRepBN: at inference these compute their affine map, or LayerNorm at
    ratio 1, without calling their BatchNorm.
    """

    name: str
    entry: nn.Module
    bn: _BatchNorm

    def tokens(self, x: Tensor) -> Tensor:
        """Return the input ``x`` of ``entry`` as tokens ``(M, C)``."""
        channels_last = isinstance(self.entry, (RepBN, PRepBN)) or x.dim() == 2
        return (x if channels_last else x.movedim(1, -1)).flatten(0, -2)


@dataclass
class CalibrationReport:
    """What :func:`calibrate_batch_norm` did.

    Attributes:
        batches: number of batches of a pass, of all processes.
        passes: number of passes over them.
        residual: what the last pass changed, the larger of both changes below.
        mean_change: by norm, the largest change of a channel's mean between before and after, in
            standard deviations, ``|m_new - m_old| / sqrt(v_old + eps)``.
        var_change: by norm, the largest change of a channel's variance over the variance,
            ``|v_new - v_old| / (v_old + eps)``.
        frozen: norms that were left alone because their statistics are frozen.
        unseen: norms that were left alone because fewer than two tokens reached them.
    """

    batches: int = 0
    passes: int = 0
    residual: float = float('inf')
    mean_change: dict[str, float] = field(default_factory=dict)
    var_change: dict[str, float] = field(default_factory=dict)
    frozen: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Return what changed, a fact a line."""
        lines = [
            f'{len(self.mean_change)} BatchNorm calibrated over {self.batches} images, '
            f'{self.passes} passes, the last of which changed {self.residual:.2g}'
        ]
        if self.mean_change:
            mean, var = (
                max(changes, key=changes.get) for changes in (self.mean_change, self.var_change)
            )
            lines += [
                f'largest change of a mean: {self.mean_change[mean]:.3g} standard deviations, '
                f'in {mean}',
                f'largest change of a variance: {self.var_change[var]:.3g} of it, in {var}',
            ]
        for title, names in (
            ('frozen, left as they are', self.frozen),
            ('reached by less than two tokens, left as they are', self.unseen),
        ):
            if names:
                lines.append(f'{title}: {len(names)}, such as {names[0]}')
        return '\n'.join(lines)


def norm_sites(model: nn.Module) -> list[NormSite]:
    """Return every BatchNorm of ``model`` that has running statistics, in the order of
    ``model.modules()``; one that has several names comes once."""
    sites, seen = [], set()
    for name, module in model.named_modules():
        bn = module
        if isinstance(module, PRepBN):
            bn = module.repbn.bn
        elif isinstance(module, RepBN):
            bn = module.bn
        if isinstance(bn, _BatchNorm) and bn.running_mean is not None and id(bn) not in seen:
            seen.add(id(bn))
            sites.append(NormSite(name, module, bn))
    return sites


def get_statistics(sites: Iterable[NormSite]) -> Statistics:
    """Return copies of the running mean and variance of each norm."""
    return {
        site.name: (site.bn.running_mean.clone(), site.bn.running_var.clone()) for site in sites
    }


@torch.no_grad()
def put_statistics(sites: Iterable[NormSite], statistics: Statistics) -> None:
    """Set the running mean and variance of the norms that ``statistics`` names."""
    for site in sites:
        if site.name in statistics:
            mean, var = statistics[site.name]
            site.bn.running_mean.copy_(mean)
            site.bn.running_var.copy_(var)


def calibrate_batch_norm(
    model: nn.Module,
    batches: Iterable[Any],
    forward: Callable[[Any], Any] | None = None,
    include_frozen: bool = False,
    max_passes: int = 20,
    tolerance: float = 0.01,
    progress: Progress | None = None,
) -> CalibrationReport:
    r"""Make BatchNorm statistics the true mean and variance over a set of images.

    For every BatchNorm of RepBN, PRepBN and of any other part of the model, over all M tokens
    (pixels) of all images, whose inputs :math:`x_i` it gets in evaluation mode,

    .. math:: m = \frac1M \sum_i x_i, \qquad v = \frac{1}{M - 1} \sum_i (x_i - m)^2

    which is :math:`E[x^2] - m^2` with the factor :math:`M / (M - 1)` that running variances have in
    torch. An image counts by its number of tokens.

    The inputs of a norm depend on the statistics of those before it. A single pass that normalises
    by the batch (``update_bn``, "precise BN") gives the statistics of a network in which every image
    is normalised by itself, and one that normalises by the old statistics those of the network
    before the calibration. Both are not what the norms meet afterwards. Therefore the first pass
    normalises each batch by itself, as in training, and each further one by what the pass before it
    found, until a pass changes no mean by more than ``tolerance`` standard deviations and no variance
    by more than that share of it. The statistics then describe themselves: passing the images
    through the network again finds the same ones. As the first n norms in a row are settled after
    n + 1 passes, this ends; a detector takes about ten.

    The model is in evaluation mode meanwhile, so drop path and dropout are off and the ratio of
    PRepBN stays; parameters do not require gradients. Both are put back afterwards, and after an
    exception the old statistics as well. In a process group the sums are those of all processes,
    which may have different numbers of batches, even none; all must call this function.

    Args:
        model: the model, not wrapped for distributed training.
        batches: what ``forward`` takes; it is iterated once a pass and must yield the same each
            time. One image each, so that none is padded to another.
        forward: runs the model on a batch; by default ``model.test_step`` (detectors), or the model
            itself.
        include_frozen: recompute statistics as well that ``model.train()`` leaves in evaluation mode
            (``norm_eval=True``, ``frozen_stages``). The weights behind them were trained with the
            statistics as they are, so by default they stay.
        max_passes: number of passes after which it ends even if the statistics still change.
        tolerance: see above.
        progress: wraps ``batches`` in each pass.

    Returns:
        What changed.

    Raises:
        TypeError: an argument is of a type that it cannot be.
        ValueError: an argument is out of range, there is nothing to calibrate, no process has a
            batch, or a statistic is not finite.
    """
    check_run(model, batches, forward, progress)
    _check_arguments(batches, include_frozen, max_passes, tolerance)
    forward = forward or getattr(model, 'test_step', None) or model
    report = CalibrationReport()
    with frozen_parameters(model), modes_kept(model):
        sites, report.frozen = sites_to_calibrate(model, include_frozen)
        model.eval()
        old = get_statistics(sites)
        try:
            for number in range(1, max_passes + 1):
                shown = batches if progress is None else progress(batches, number)
                found = _one_pass(sites, forward, shown, report, by_itself=number == 1)
                if number == 1:
                    put_statistics(sites, old)
                changes = _changes(sites, found)
                put_statistics(sites, found)
                report.passes = number
                report.residual = max(max(change) for change in changes.values())
                if number > 1 and report.residual <= tolerance:
                    break
            put_statistics(sites, old)
            for name, change in _changes(sites, found).items():
                report.mean_change[name], report.var_change[name] = change
            put_statistics(sites, found)
        except BaseException:
            put_statistics(sites, old)
            raise
    report.unseen = [site.name for site in sites if site.name not in found]
    return report


def sites_to_calibrate(model: nn.Module, include_frozen: bool) -> tuple[list[NormSite], list[str]]:
    """Return the norms whose statistics are to be recomputed, and the names of those that are
    frozen, which is shown by ``model.train()`` leaving them in evaluation mode.

    Raises:
        ValueError: there is none to recompute.
    """
    sites, frozen = norm_sites(model), []
    with modes_kept(model):
        model.train()
        if not include_frozen:
            frozen = [site.name for site in sites if not site.bn.training]
            sites = [site for site in sites if site.bn.training]
    if sites:
        return sites, frozen
    if frozen:
        raise ValueError(
            f'the statistics of all {len(frozen)} BatchNorm of {type(model).__name__} are frozen '
            '(norm_eval or frozen_stages): leave them so, or calibrate them knowingly with '
            'include_frozen=True (--include-frozen of tools/calibrate_bn.py).'
        )
    raise ValueError(
        f'{type(model).__name__} has no BatchNorm to calibrate: use '
        "norm_cfg=dict(type='PRepBN'); a re-parameterized model was calibrated before."
    )


class _Moments:
    """Number, mean and sum of squared deviations of tokens, merged in float64."""

    def __init__(self, bn: _BatchNorm) -> None:
        like = dict(dtype=torch.float64, device=bn.running_mean.device)
        self.count = torch.zeros((), **like)
        self.mean = torch.zeros(bn.num_features, **like)
        self.deviation = torch.zeros(bn.num_features, **like)

    def add(self, count: Tensor, mean: Tensor, deviation: Tensor) -> None:
        """Merge other moments in; the means are subtracted first, so nothing cancels."""
        total = self.count + count
        delta = mean - self.mean
        self.mean += delta * (count / total)
        self.deviation += deviation + delta.square() * (self.count * count / total)
        self.count = total

    def add_tokens(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Merge tokens ``(M, C)``; return their own mean and variance."""
        x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        var, mean = torch.var_mean(x, 0, correction=0)
        count = torch.full_like(self.count, x.shape[0])
        self.add(count, mean.double(), var.double() * count)
        return mean, var

    def reduce(self) -> None:
        """Make them the moments of the tokens of all processes."""
        total = torch.cat([self.count[None], self.count * self.mean])
        dist.all_reduce(total)
        mean = total[1:] / total[0].clamp(min=1)
        self.deviation += self.count * (self.mean - mean).square()
        dist.all_reduce(self.deviation)
        self.count, self.mean = total[0], mean


def _one_pass(
    sites: list[NormSite],
    forward: Callable,
    batches: Iterable,
    report: CalibrationReport,
    by_itself: bool,
) -> Statistics:
    """Return the statistics of what reaches the norms.

    Args:
        by_itself: normalise each batch by its own statistics rather than by the norm's.
    """
    moments = {site.name: _Moments(site.bn) for site in sites}

    def watch(site: NormSite) -> Callable:

        def before_forward(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = site.tokens(inputs[0].detach())
            if x.shape[0]:
                own = moments[site.name].add_tokens(x)
                if by_itself and x.shape[0] > 1:
                    put_statistics([site], {site.name: own})

        return before_forward

    report.batches = run_watched(
        [(site.entry, watch(site)) for site in sites],
        forward,
        batches,
        like=sites[0].bn.running_mean,
    )
    if is_distributed():
        for moment in moments.values():
            moment.reduce()
    return _settled(moments)


def run_watched(
    watched: Iterable[tuple[nn.Module, Callable]],
    forward: Callable,
    batches: Iterable,
    like: Tensor,
) -> int:
    """Run ``forward`` on all batches with a forward pre-hook on each module; return the number of
    batches of all processes.

    Args:
        like: a tensor on the device whose process group counts them.
    """
    handles = [module.register_forward_pre_hook(hook) for module, hook in watched]
    count = torch.zeros((), dtype=torch.float64, device=like.device)
    try:
        # No graph is recorded, since no parameter requires a gradient; where gradients are on, the
        # twins of a deployed network pass whole maps to its norms.
        with torch.enable_grad():
            for batch in batches:
                forward(batch)
                count += 1
    finally:
        for handle in handles:
            handle.remove()
    if is_distributed():
        dist.all_reduce(count)
    if not count:
        raise ValueError('batches is empty: calibrate over at least one image.')
    return int(count)


def _settled(moments: dict[str, _Moments]) -> Statistics:
    statistics = {}
    for name, moment in moments.items():
        if moment.count < 2:
            continue
        var = moment.deviation / (moment.count - 1)
        if not torch.isfinite(moment.mean).all() or not torch.isfinite(var).all():
            raise ValueError(
                f'the inputs of the norm {name} are not finite, so they have no mean and variance: '
                'take a checkpoint from before the loss became NaN, and let the ratio of PRepBN '
                'fall more slowly.'
            )
        statistics[name] = moment.mean, var
    if not statistics:
        raise ValueError(
            'no norm was reached by two tokens: calibrate over larger images, or '
            'check that forward calls the model.'
        )
    return statistics


def _changes(sites: list[NormSite], new: Statistics) -> dict[str, tuple[float, float]]:
    """Return by norm how far the largest mean and variance are from those in the model."""
    changes = {}
    for name, _, bn in sites:
        if name in new:
            mean, var = new[name]
            old = bn.running_var.double() + bn.eps
            changes[name] = (
                float(((mean - bn.running_mean).abs() / old.sqrt()).max()),
                float(((var - bn.running_var).abs() / old).max()),
            )
    return changes


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Put every module back into its mode, training or evaluation, afterwards."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """Let no parameter require a gradient inside."""
    free = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in free:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in free:
            parameter.requires_grad_(True)


def check_run(
    model: nn.Module, batches: Iterable, forward: Callable | None, progress: Progress | None
) -> None:
    """Check the types of what runs a model over batches.

    Raises:
        TypeError: one of them cannot be what it is for.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f'model={model!r:.60} is no torch.nn.Module: build the model and load its checkpoint.'
        )
    # The letters of a name and the keys of a batch can be iterated, too.
    if isinstance(batches, (str, bytes, Mapping)) or not (
        hasattr(batches, '__iter__') or hasattr(batches, '__getitem__')
    ):
        raise TypeError(
            f'batches={batches!r:.60} are no batches: give a list of them or a data loader.'
        )
    if forward is not None and not callable(forward):
        raise TypeError(
            f'forward={forward!r:.60} is no function: give one that runs the model on a batch, '
            'or leave it out.'
        )
    if progress is not None and not callable(progress):
        raise TypeError(
            f'progress={progress!r:.60} is no function: give one that takes the batches and the '
            'number of the pass, or leave it out.'
        )


def _check_arguments(
    batches: Iterable, include_frozen: bool, max_passes: int, tolerance: float
) -> None:
    if not isinstance(include_frozen, bool):
        raise TypeError(f'include_frozen={include_frozen!r:.60} must be True or False.')
    if isinstance(max_passes, bool) or not isinstance(max_passes, Integral):
        raise TypeError(f'max_passes={max_passes!r:.60} must be a whole number of at least 1.')
    if isinstance(tolerance, bool) or not isinstance(tolerance, Real):
        raise TypeError(f'tolerance={tolerance!r:.60} must be a number from 0 on, such as 0.01.')
    if max_passes < 1:
        raise ValueError(f'max_passes={max_passes} must be at least 1.')
    if not tolerance >= 0:
        raise ValueError(f'tolerance={tolerance} must be a number from 0 on, such as 0.01.')
    if isinstance(batches, OneShot):
        raise ValueError(
            f'batches is a {type(batches).__name__}, which can be iterated only once: '
            'give a list or a data loader.'
        )
