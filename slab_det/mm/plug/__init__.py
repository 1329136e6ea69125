"""Plugging a backbone into an existing detection config."""

from .backbones import backbone_config, known_backbones
from .detector import base_of, load_detector
from .notes import Note, not_adapted
from .plan import Plan, make_plan
from .trial import Trial, train_one_step
from .writing import changed_settings, config_text

__all__ = [
    'Note',
    'Plan',
    'Trial',
    'backbone_config',
    'base_of',
    'changed_settings',
    'config_text',
    'known_backbones',
    'load_detector',
    'make_plan',
    'not_adapted',
    'train_one_step',
]
