"""mmengine hooks: the ratio of PRepBN, its statistics, padding, exact resumption."""
from ..compat import require_detection

require_detection('slab_det.hooks')

from .bn_calibration_hook import BNCalibrationHook  # noqa: E402
from .prepbn_hook import PRepBNHook  # noqa: E402
from .random_state_hook import RandomStateHook  # noqa: E402
from .ratio_schedule import scheduled_ratio  # noqa: E402
from .reparameterize_hook import ReparameterizeHook  # noqa: E402
from .valid_tokens_hook import ValidTokensHook  # noqa: E402

__all__ = [
    'BNCalibrationHook', 'PRepBNHook', 'RandomStateHook', 'ReparameterizeHook', 'ValidTokensHook',
    'scheduled_ratio'
]
