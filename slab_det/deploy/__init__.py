"""From a trained network to a deployed one."""

from .reparameterize import UnfinishedRatioError, is_reparameterized, reparameterize
from .twins import place_twins, remove_twins, with_twins, without_twins

__all__ = [
    'UnfinishedRatioError',
    'is_reparameterized',
    'place_twins',
    'remove_twins',
    'reparameterize',
    'with_twins',
    'without_twins',
]
