"""From a trained network to a deployed one."""

from .reparameterize import UnfinishedRatioError, is_reparameterized, reparameterize
from .twins import place_twins, remove_twins, temporarily

__all__ = [
    'UnfinishedRatioError',
    'is_reparameterized',
    'place_twins',
    'remove_twins',
    'reparameterize',
    'temporarily',
]
