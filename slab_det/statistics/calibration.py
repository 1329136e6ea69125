"""Recomputing BatchNorm statistics while all parameters are frozen.

Sources: Guo et al., "SLAB", ICML 2024, section 3.2, where parameters are frozen at the end of
training and the statistics of RepBN alone are updated; Wu and Johnson, "Rethinking Batch in
BatchNorm", 2021, section 3, on averages over images in place of running ones.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from slab_det.errors import InputError
from slab_det.values import check_count, check_flag, check_tolerance

from .moments import Moments
from .passes import Progress, check_run, frozen_parameters, run_watched
from .sites import (
    NormSite,
    Statistics,
    get_statistics,
    modes_kept,
    norm_sites,
    put_statistics,
    sites_to_calibrate,
)

#: With what this module had in version 0.1, when the package was one file.
__all__ = [
    'CalibrationReport',
    'NormSite',
    'Statistics',
    'calibrate_batch_norm',
    'check_run',
    'frozen_parameters',
    'get_statistics',
    'modes_kept',
    'norm_sites',
    'put_statistics',
    'run_watched',
    'sites_to_calibrate',
]


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
        """Return what changed, one fact per line."""
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
            ('reached by fewer than two tokens, left as they are', self.unseen),
        ):
            if names:
                lines.append(f'{title}: {len(names)}, such as {names[0]}')
        return '\n'.join(lines)


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
    by the batch (``update_bn``, "precise BN") gives the statistics of a network in which every
    image is normalised by itself, and one that normalises by the old statistics those of the
    network before the calibration. Both are not what the norms meet afterwards. Therefore the
    first pass normalises each batch by itself, as in training, and each further one by what the
    pass before it found, until a pass changes no mean by more than ``tolerance`` standard
    deviations and no variance by more than that share of it. The statistics then describe
    themselves: passing the images through the network again finds the same ones. As the first n
    norms in a row are settled after n + 1 passes, this ends; a detector takes about ten.

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
        include_frozen: recompute statistics as well that ``model.train()`` leaves in evaluation
            mode (``norm_eval=True``, ``frozen_stages``). The weights behind them were trained with
            the statistics as they are, so by default they stay.
        max_passes: number of passes after which it ends even if the statistics still change.
        tolerance: see above.
        progress: wraps ``batches`` in each pass.

    Returns:
        What changed.

    Raises:
        InputError: an argument is out of range or of a wrong type, there is nothing to calibrate,
            no process has a batch, or a statistic is not finite.
    """
    check_run(model, batches, forward, progress)
    check_flag('include_frozen', include_frozen)
    check_count('max_passes', max_passes, 1)
    check_tolerance('tolerance', tolerance)
    if isinstance(batches, Iterator):
        raise InputError(
            f'batches is a {type(batches).__name__}, which can be iterated only once: '
            'give a list or a data loader.'
        )
    forward = forward or getattr(model, 'test_step', None) or model
    report = CalibrationReport()
    with frozen_parameters(model), modes_kept(model):
        sites, report.frozen = sites_to_calibrate(model, include_frozen)
        model.eval()
        old = found = get_statistics(sites)
        try:
            while report.passes < max_passes and (report.passes < 2 or report.residual > tolerance):
                report.passes += 1
                shown = batches if progress is None else progress(batches, report.passes)
                before = found
                found = _one_pass(sites, forward, shown, report, by_itself=report.passes == 1)
                put_statistics(sites, found)
                report.residual = max(map(max, _changes(sites, before, found).values()))
        except BaseException:
            put_statistics(sites, old)
            raise
    for name, change in _changes(sites, old, found).items():
        report.mean_change[name], report.var_change[name] = change
    report.unseen = [site.name for site in sites if site.name not in found]
    return report


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
    moments = {site.name: Moments(site.bn.running_mean) for site in sites}

    def watch(site: NormSite) -> Callable:

        def before_forward(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = site.tokens(inputs[0].detach())
            if x.shape[0]:
                (mean,), (var,) = moments[site.name].add(x[None])
                if by_itself and x.shape[0] > 1:
                    put_statistics([site], {site.name: (mean, var)})

        return before_forward

    report.batches = run_watched(
        [(site.entry, watch(site)) for site in sites],
        forward,
        batches,
        like=sites[0].bn.running_mean,
    )
    for moment in moments.values():
        moment.reduce()
    return _settled(moments)


def _settled(moments: dict[str, Moments]) -> Statistics:
    statistics = {}
    for name, moment in moments.items():
        if moment.count < 2:
            continue
        mean, var = moment.means[0], moment.products[0] / (moment.count - 1)
        if not torch.isfinite(mean).all() or not torch.isfinite(var).all():
            raise InputError(
                f'the inputs of the norm {name} are not finite, so they have no mean and variance: '
                'take a checkpoint from before the loss became NaN, and let the ratio of PRepBN '
                'fall more slowly.'
            )
        statistics[name] = mean, var
    if not statistics:
        raise InputError(
            'no norm was reached by two tokens: calibrate over larger images, or '
            'check that forward calls the model.'
        )
    return statistics


def _changes(
    sites: list[NormSite], old: Statistics, new: Statistics
) -> dict[str, tuple[float, float]]:
    """Return by norm the largest changes of a mean and of a variance, relative to the old ones."""
    changes = {}
    for name, _, bn in sites:
        if name in new:
            (old_mean, old_var), (mean, var) = old[name], new[name]
            scale = old_var.double() + bn.eps
            changes[name] = (
                float(((mean - old_mean).abs() / scale.sqrt()).max()),
                float(((var - old_var).abs() / scale).max()),
            )
    return changes
