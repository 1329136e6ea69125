"""Checkpoints of other origin under our names: names and shapes only."""

from .convert import convert_state_dict, load_into
from .families import FAMILIES, detect_family, to_our_names
from .family import CheckpointError, Family
from .reading import (
    is_address,
    read_checkpoint,
    select_state_dict,
    select_weights,
    stored_grid_sizes,
)
from .report import LoadReport
from .timm_filter import checkpoint_filter_fn

__all__ = [
    'CheckpointError',
    'FAMILIES',
    'Family',
    'LoadReport',
    'checkpoint_filter_fn',
    'convert_state_dict',
    'detect_family',
    'is_address',
    'load_into',
    'read_checkpoint',
    'select_state_dict',
    'select_weights',
    'stored_grid_sizes',
    'to_our_names',
]
