"""Checkpoints of other origin under our names: names and shapes only."""
from .convert import LoadReport, convert_state_dict, load_into
from .family import CheckpointError
from .reading import read_checkpoint, select_state_dict
from .timm_filter import checkpoint_filter_fn

__all__ = [
    'CheckpointError', 'LoadReport', 'checkpoint_filter_fn', 'convert_state_dict', 'load_into',
    'read_checkpoint', 'select_state_dict'
]
