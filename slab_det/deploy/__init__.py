"""From a trained network to a deployed one."""

from .folding_report import FoldingReport, NormFolding
from .reparameterize import UnfinishedRatioError, is_reparameterized, reparameterize

__all__ = [
    'FoldingReport',
    'NormFolding',
    'UnfinishedRatioError',
    'is_reparameterized',
    'reparameterize',
]
