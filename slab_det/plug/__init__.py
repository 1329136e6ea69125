"""Plugging a backbone into an existing detection config."""
from ..compat import require_detection

require_detection('slab_det.plug')

from .backbones import backbone_config, known_backbones  # noqa: E402
from .detector import base_of, load_detector  # noqa: E402
from .plan import Note, Plan, make_plan, not_adapted  # noqa: E402
from .trial import Trial, train_one_step  # noqa: E402
from .writing import changed_settings, config_text  # noqa: E402

__all__ = [
    'Note', 'Plan', 'Trial', 'backbone_config', 'base_of', 'changed_settings', 'config_text',
    'known_backbones', 'load_detector', 'make_plan', 'not_adapted', 'train_one_step'
]
