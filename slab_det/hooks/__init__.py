"""mmengine hooks: the ratio of PRepBN, exact resumption."""
from .prepbn_hook import PRepBNHook
from .random_state_hook import RandomStateHook
from .ratio_schedule import scheduled_ratio

__all__ = ['PRepBNHook', 'RandomStateHook', 'scheduled_ratio']
