"""mmengine hooks: the ratio of PRepBN, exact resumption."""
from .prepbn_hook import PRepBNHook
from .random_state_hook import RandomStateHook
from .ratio_schedule import scheduled_ratio
from .reparameterize_hook import ReparameterizeHook

__all__ = ['PRepBNHook', 'RandomStateHook', 'ReparameterizeHook', 'scheduled_ratio']
