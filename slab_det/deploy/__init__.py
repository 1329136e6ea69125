"""From a trained network to a deployed one."""

from .folding_report import FoldingReport, NormFolding
from .reparameterize import UnfinishedRatioError, is_reparameterized, reparameterize
from .twins import place_twins, remove_twins, temporarily

__all__ = [
    'FoldingReport',
    'NormFolding',
    'UnfinishedRatioError',
    'is_reparameterized',
    'place_twins',
    'remove_twins',
    'reparameterize',
    'temporarily',
]
