"""From a trained network to a deployed one."""
from .reparameterize import is_reparameterized, reparameterize

__all__ = ['is_reparameterized', 'reparameterize']
