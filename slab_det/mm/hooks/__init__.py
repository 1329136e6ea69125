"""mmengine hooks: the ratio of PRepBN, its statistics, padding, exact resumption."""

from slab_det.layers import scheduled_ratio
from slab_det.mm.resume.random_state_hook import RandomStateHook

from .bn_calibration_hook import BNCalibrationHook
from .prepbn_hook import PRepBNHook
from .reparameterize_hook import ReparameterizeHook
from .valid_tokens_hook import ValidTokensHook

__all__ = [
    'BNCalibrationHook',
    'PRepBNHook',
    'RandomStateHook',
    'ReparameterizeHook',
    'ValidTokensHook',
    'scheduled_ratio',
]
