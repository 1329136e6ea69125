"""The BatchNorms of a model, and their running statistics."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slab_det.errors import InputError
from slab_det.layers import PRepBN, RepBN

#: Mean and variance of each norm, by its name.
Statistics = dict[str, tuple[Tensor, Tensor]]


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


def norm_sites(model: nn.Module) -> list[NormSite]:
    """Return every BatchNorm of ``model`` that has running statistics, in the order of
    ``model.modules()``; one that has several names comes once."""
    sites: dict[int, NormSite] = {}
    for name, module in model.named_modules():
        repbn = module.repbn if isinstance(module, PRepBN) else module
        bn = repbn.bn if isinstance(repbn, RepBN) else repbn
        if isinstance(bn, _BatchNorm) and bn.running_mean is not None:
            sites.setdefault(id(bn), NormSite(name, module, bn))
    return list(sites.values())


def sites_to_calibrate(model: nn.Module, include_frozen: bool) -> tuple[list[NormSite], list[str]]:
    """Return the norms whose statistics are to be recomputed, and the names of the frozen ones.

    Norms are frozen that ``model.train()`` leaves in evaluation mode.

    Raises:
        InputError: there is none to recompute.
    """
    sites, frozen = norm_sites(model), []
    if not include_frozen:
        with modes_kept(model):
            model.train()
            frozen = [site.name for site in sites if not site.bn.training]
            sites = [site for site in sites if site.bn.training]
    if sites:
        return sites, frozen
    if frozen:
        raise InputError(
            f'the statistics of all {len(frozen)} BatchNorm of {type(model).__name__} are frozen '
            '(norm_eval or frozen_stages): leave them so, or calibrate them knowingly with '
            'include_frozen=True (--include-frozen of tools/calibrate_bn.py).'
        )
    raise InputError(
        f'{type(model).__name__} has no BatchNorm to calibrate: use '
        "norm_cfg=dict(type='PRepBN'); a re-parameterized model was calibrated before."
    )


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


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Put every module back into its mode, training or evaluation, afterwards."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
