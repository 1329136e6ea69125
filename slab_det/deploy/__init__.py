"""From a trained network to a deployed one."""

from .reparameterize import UnfinishedRatioError, is_reparameterized, reparameterize

__all__ = ['UnfinishedRatioError', 'is_reparameterized', 'reparameterize']
