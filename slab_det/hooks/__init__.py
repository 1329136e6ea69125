"""mmengine hooks: the ratio of PRepBN, exact resumption."""
from .prepbn_hook import PRepBNHook
from .ratio_schedule import scheduled_ratio

__all__ = ['PRepBNHook', 'scheduled_ratio']
